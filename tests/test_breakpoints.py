"""The names of breakpoints that people know from luz: what they stand for, in which order they come, how often."""

import pytest
import torch
import torch.nn.functional as F

import statetrain as st
from statetrain.callback import ALIASES


def batches(n):
    return [(torch.randn(2, 3), torch.randn(2, 1)) for _ in range(n)]


def recorder(log):
    """A callback that listens to every one of luz's breakpoints and notes when it is called."""

    def note(name):
        def hook(self, ctx):
            log.append(name)

        return hook

    return type("Recorder", (st.Callback,), {name: note(name) for name in ALIASES})()


SGD = {"loss": F.mse_loss, "optimizer": torch.optim.SGD, "opt_hparams": {"lr": 0.01}}
TRAIN_STEP = [
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
    "on_train_batch_before_step",
    "on_train_batch_after_step",
]
VALID_STEP = ["on_valid_batch_after_pred", "on_valid_batch_after_loss"]


def test_the_whole_sequence_of_fit():
    """Two epochs of two training batches and one validation batch fire luz's breakpoints in luz's order."""
    log = []
    st.fit(
        torch.nn.Linear(3, 1),
        batches(2),
        valid=batches(1),
        epochs=2,
        callbacks=[recorder(log)],
        **SGD,
    )
    train = ["on_train_batch_begin", *TRAIN_STEP, "on_train_batch_end"]
    epoch = [
        *("on_epoch_begin", "on_train_begin", *train, *train, "on_train_end"),
        *(
            "on_valid_begin",
            "on_valid_batch_begin",
            *VALID_STEP,
            "on_valid_batch_end",
            "on_valid_end",
            "on_epoch_end",
        ),
    ]
    assert log == ["on_fit_begin", *epoch, *epoch, "on_fit_end"]


def test_the_step_repeats_for_each_optimizer():
    """With two optimizers the breakpoints of the step come once for each, those of the batch once; validation likewise."""
    log = []
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 1), "b": torch.nn.Linear(3, 1)})
    model.forward = lambda x: model["a"](x) + model["b"](x)
    st.fit(
        model,
        batches(1),
        valid=batches(1),
        epochs=1,
        loss=F.mse_loss,
        optimizer={"a": torch.optim.SGD, "b": torch.optim.SGD},
        opt_hparams={"lr": 0.01},
        callbacks=[recorder(log)],
    )
    assert log == [
        *(
            "on_fit_begin",
            "on_epoch_begin",
            "on_train_begin",
            "on_train_batch_begin",
            *TRAIN_STEP,
            *TRAIN_STEP,
            "on_train_batch_end",
        ),
        *(
            "on_train_end",
            "on_valid_begin",
            "on_valid_batch_begin",
            *VALID_STEP,
            *VALID_STEP,
            "on_valid_batch_end",
            "on_valid_end",
        ),
        *("on_epoch_end", "on_fit_end"),
    ]


def test_the_whole_sequence_of_evaluate_and_predict():
    """Evaluating fires the validation breakpoints alone, predicting the prediction breakpoints alone."""
    model, log = torch.nn.Linear(3, 1), []
    st.evaluate(model, batches(2), loss=F.mse_loss, callbacks=[recorder(log)])
    batch = ["on_valid_batch_begin", *VALID_STEP, "on_valid_batch_end"]
    assert log == ["on_valid_begin", *batch, *batch, "on_valid_end"]
    log.clear()
    st.predict(model, batches(2), callbacks=[recorder(log)])
    batch = ["on_predict_batch_begin", "on_predict_batch_end"]
    assert log == ["on_predict_begin", *batch, *batch, "on_predict_end"]


def test_the_current_optimizer_is_set_before_the_model_runs():
    """`ctx.opt` and `ctx.opt_name` are the current optimizer's from before `pred` on, in training and in validation."""
    seen = []

    class Watch(st.Callback):
        def on_enter_pred(self, ctx):
            seen.append(("train", ctx.opt_name, ctx.opt is ctx.optimizers[ctx.opt_name]))

        def on_enter_valid_pred(self, ctx):
            seen.append(("valid", ctx.opt_name, ctx.opt is ctx.optimizers[ctx.opt_name]))

    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 1), "b": torch.nn.Linear(3, 1)})
    model.forward = lambda x: model["a"](x) + model["b"](x)
    st.fit(
        model,
        batches(1),
        valid=batches(1),
        epochs=1,
        loss=F.mse_loss,
        optimizer={"a": torch.optim.SGD, "b": torch.optim.SGD},
        opt_hparams={"lr": 0.01},
        callbacks=[Watch()],
    )
    assert seen == [(part, name, True) for part in ("train", "valid") for name in ("a", "b")]


def test_messages_use_the_one_canonical_name():
    """A breakpoint given twice, once under its alias, is an error in the hook's own name."""

    class Twice(st.Callback):
        def on_epoch_end(self, ctx):
            pass

        def on_exit_epoch(self, ctx):
            pass

    with pytest.raises(st.CallbackError, match=r"'Twice' has 'on_exit_epoch' under two names"):
        st.Machine(st.supervised(), [Twice()])

    class Raises(st.Callback):
        def on_epoch_end(self, ctx):
            raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here") as caught:
        st.fit(torch.nn.Linear(3, 1), batches(1), epochs=1, callbacks=[Raises()], **SGD)
    assert "Raises.on_exit_epoch" in caught.value.__notes__[0]


def test_a_breakpoint_of_ones_own_is_a_state():
    """A state that is inserted has hooks like any other."""
    seen = []

    class Watch(st.Callback):
        def on_enter_warm_up(self, ctx):
            seen.append(ctx.epoch)

    def warm_up(ctx):
        "warm up"

    life = st.supervised(validate=None).insert(
        st.State("warm_up", warm_up), between=("epoch", "train")
    )
    st.fit(torch.nn.Linear(3, 1), batches(1), epochs=2, lifecycle=life, callbacks=[Watch()], **SGD)
    assert seen == [1, 2]


def test_an_event_of_ones_own_has_an_arrow_of_its_own():
    """What luz does with condition handlers is an event class with an arrow: here, one that ends the run from anywhere."""

    class Diverged(st.Event):
        "the loss ran away"

    def say(ctx):
        "say why"
        ctx.outcome = st.Stopped(ctx.epoch, f"diverged: {ctx.event.reason}")

    class Watch(st.Callback):
        def on_enter_backward(self, ctx):
            if ctx.iter == 2:
                raise Diverged("at batch 2")

    life = st.supervised(validate=None).add(st.Transition("fit", "end", effect=say, event=Diverged))
    run = st.fit(
        torch.nn.Linear(3, 1), batches(5), epochs=2, lifecycle=life, callbacks=[Watch()], **SGD
    )
    assert run.outcome == st.Stopped(1, "diverged: at batch 2")
    assert run.ctx.step == 1


def test_training_flag_and_data_are_never_stale():
    """At each breakpoint the training flag, the model's mode and the data in use belong to the open scope."""
    seen = []

    class Watch(st.Callback):
        def note(self, ctx):
            data = (
                "train"
                if ctx.data is ctx.train_data
                else "valid"
                if ctx.data is ctx.valid_data
                else None
            )
            seen.append((ctx.state, ctx.training, ctx.model.training, data))

        on_enter_train = on_enter_valid = on_enter_record = on_enter_epoch = note

    model = torch.nn.Linear(3, 1)
    st.fit(model, batches(1), valid=batches(1), epochs=2, callbacks=[Watch()], **SGD)
    epoch = [
        ("epoch", False, True, None),
        ("train", True, True, "train"),
        ("valid", False, False, "valid"),
        ("record", False, True, None),
    ]
    assert seen == epoch * 2
    assert model.training
