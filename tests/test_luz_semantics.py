"""What people know from luz, where no other test shows it: the context's methods, its fields, loaders, parts of one's own."""

from __future__ import annotations

import contextlib
import copy
import signal

import pytest
import torch
from reference import bits
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

import statetrain as st
from statetrain.callbacks.checkpoint import Checkpoint
from statetrain.checkpoints import directory
from statetrain.errors import CheckpointError


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "dataloader_options": {"batch_size": 8},
        **more,
    }


def at(hook, function, **declared):
    "A callback that calls a function of the context in one hook."
    return type("At", (st.Callback,), {hook: lambda self, ctx: function(ctx), **declared})()


def accuracy(pred, target):
    return (pred.argmax(1) == target).float().mean()


# ---------------------------------------------------------------- what is logged


def test_what_is_logged_beside_the_history(points, net):
    "log() adds to a record of any name, get_log() reads it; None is not added, and what is not there is None."

    def log(ctx):
        ctx.log("norm", ctx.iter)
        ctx.log("norm", None)

    ctx = st.fit(net, points, callbacks=at("on_exit_step", log), **options()).ctx
    assert ctx.records == {"norm": [1, 2, 3, 1, 2, 3]}
    assert (
        ctx.get_log("norm"),
        ctx.get_log("norm", 0),
        ctx.get_log("norm", 6),
        ctx.get_log("nrom"),
    ) == (3, 1, None, None)


def test_records_are_written_by_log_alone(points, net):
    "Neither the records nor one of them can be replaced."
    ctx = st.fit(
        net, points, callbacks=at("on_exit_step", lambda ctx: ctx.log("norm", 1.0)), **options()
    ).ctx
    with pytest.raises(AttributeError):
        ctx.records = {}
    with pytest.raises(TypeError, match="does not support item assignment"):
        ctx.records["norm"] = []
    assert ctx.records == {"norm": [1.0] * 6}


def test_a_logged_metric_goes_to_the_set_in_use(points, net):
    "In train and in valid the set is known; it can be named anywhere, and an empty one leaves the name as it is."

    class Mine(st.Callback):
        def on_exit_train(self, ctx):
            ctx.log_metric("mine", 1.0)

        def on_exit_valid(self, ctx):
            ctx.log_metric("mine", 2.0)

        def on_enter_record(self, ctx):
            ctx.log_metric("late", 3.0, set="train")
            ctx.log_metric("bare", 4.0, set="")

    run = st.fit(net, points, valid=points, callbacks=Mine(), **options())
    for column, value in {
        "train_mine": 1.0,
        "valid_mine": 2.0,
        "train_late": 3.0,
        "bare": 4.0,
    }.items():
        assert run.history[column] == [value] * 2


def test_a_metric_logged_at_the_end_of_an_epoch_is_in_its_row(points, net):
    "There is no set in use there, so one has to be named; the column is that epoch's, not the next one's."
    late = at("on_exit_epoch", lambda ctx: ctx.log_metric("epochs", float(ctx.epoch), set="valid"))
    assert st.fit(net, points, valid=points, callbacks=late, **options()).history[
        "valid_epochs"
    ] == [1.0, 2.0]
    with pytest.raises(
        st.MachineError,
        match=(
            r"log_metric\('epochs', ...\) was called in .*, outside train and valid; say"
            r" set='train' or set='valid'"
        ),
    ):
        st.fit(
            net,
            points,
            valid=points,
            callbacks=at("on_exit_epoch", lambda ctx: ctx.log_metric("epochs", 1.0)),
            **options(),
        )


def test_metrics_are_read_back_by_set_and_epoch(points, net):
    "get_metrics, get_metric and format_metrics show the last row, or that of an epoch; names are exact."
    seen = []

    class Look(st.Callback):
        def on_exit_epoch(self, ctx):
            seen.append(
                (
                    ctx.get_metric("loss"),
                    ctx.get_metrics("train", epoch=1)["loss"],
                    ctx.get_metric("Loss"),
                    ctx.get_metric("loss", epoch=9),
                )
            )

    run = st.fit(net, points, valid=points, metrics=accuracy, callbacks=Look(), **options())
    train, valid = run.history["train_loss"], run.history["valid_loss"]
    assert seen == [(valid[0], train[0], None, None), (valid[1], train[0], None, None)]
    assert list(run.ctx.get_metrics("valid")) == ["loss", "accuracy"]
    accurate = run.history["valid_accuracy"][0]
    assert (
        run.ctx.format_metrics("valid", epoch=1)
        == f"loss: {valid[0]:.4g} - accuracy: {accurate:.4g}"
    )


def test_the_metrics_as_a_data_frame(points, net):
    "One row for each set, metric, epoch and optimizer, also where each of several optimizers has a loss of its own."
    pandas = pytest.importorskip("pandas", reason="the extra `pandas` is not installed")
    optimizers = {
        "first": torch.optim.SGD(net[0].parameters(), lr=0.1),
        "last": torch.optim.SGD(net[3].parameters(), lr=0.1),
    }
    run = st.fit(
        net,
        points,
        valid=points,
        metrics=accuracy,
        **options(optimizer=optimizers, opt_hparams=None),
    )
    frame = run.history.to_pandas()
    assert list(frame.columns) == ["set", "metric", "optimizer", "epoch", "step", "value"]
    assert len(frame) == 2 * 3 * 2
    losses = frame[(frame.set == "valid") & (frame.metric == "loss") & (frame.optimizer == "last")]
    assert losses.value.tolist() == run.history["valid_loss_last"]
    assert pandas.isna(frame[frame.metric == "accuracy"].optimizer).all()


def test_evaluating_with_other_metrics_replaces_the_set_for_that_call(points, net):
    "The loss stays, the run's own metrics are back the next time, and as many as one likes may be given."
    run = st.fit(net, points, metrics=accuracy, **options())
    others = {
        "one": lambda pred, target: 1.0,
        "two": lambda pred, target: 2.0,
        "three": lambda pred, target: 3.0,
    }
    values = run.evaluate(points, metrics=others)
    assert list(values) == ["loss", "one", "two", "three"]
    assert list(run.evaluate(points)) == ["loss", "accuracy"]


# ---------------------------------------------------------------- fields of the context


def test_buffers_are_free(points, net):
    "A callback keeps what it likes there, and others find it."
    write = at(
        "on_exit_step",
        lambda ctx: ctx.buffers.setdefault("steps", []).append(ctx.step),
        writes={"buffers"},
    )
    seen = []
    run = st.fit(
        net,
        points,
        callbacks=[write, at("on_exit_epoch", lambda ctx: seen.append(len(ctx.buffers["steps"])))],
        **options(),
    )
    assert seen == [3, 6]
    assert run.ctx.buffers["steps"] == [1, 2, 3, 4, 5, 6]


def test_cleaning_keeps_what_a_run_is(points, net):
    "clean() lets go of data, batch, buffers and gradients; model, history, records and hyperparameters stay."
    run = st.fit(
        net, points, callbacks=at("on_exit_step", lambda ctx: ctx.log("norm", 1.0)), **options()
    )
    run.ctx.buffers["large"] = torch.zeros(3)
    before, losses, predicted = bits(net), run.history["train_loss"], run.predict(points)
    run.ctx.clean()
    assert run.ctx.train_data is run.ctx.data is run.ctx.batch is None
    assert run.ctx.buffers == {}
    assert all(p.grad is None for p in net.parameters())
    assert (bits(net), run.history["train_loss"], run.ctx.opt_hparams) == (
        before,
        losses,
        {"lr": 0.1},
    )
    assert run.ctx.get_log("norm") == 1.0
    assert torch.equal(run.predict(points), predicted)


def test_hyperparameters_and_verbose_are_there_to_read(points):
    "A fit's context has what model and optimizer were made with, and whether to print; evaluate's and predict's know the former."
    seen = []
    look = at(
        "on_enter_batch", lambda ctx: seen.append((ctx.hparams, ctx.opt_hparams, ctx.verbose))
    )
    net = {"hparams": {"in_features": 4, "out_features": 3}}
    run = st.fit(torch.nn.Linear, points, callbacks=look, verbose=False, **net, **options(epochs=1))
    assert seen == [(net["hparams"], {"lr": 0.1}, False)] * 3
    seen.clear()
    run.evaluate(
        points,
        callbacks=at(
            "on_enter_valid_batch", lambda ctx: seen.append((ctx.hparams, ctx.opt_hparams))
        ),
    )
    run.predict(
        points,
        callbacks=at(
            "on_enter_predict_batch", lambda ctx: seen.append((ctx.hparams, ctx.opt_hparams))
        ),
    )
    assert seen == [(net["hparams"], {"lr": 0.1})] * 2


def test_the_device_is_the_accelerators(points, net):
    "It is read from there and cannot be set; without an accelerator there is none."
    ctx = st.fit(net, points, device="cpu", **options()).ctx
    assert ctx.device == torch.device("cpu")
    with pytest.raises(AttributeError):
        ctx.device = torch.device("cpu")
    with pytest.raises(st.MachineError, match="no accelerator, so no device"):
        _ = st.Context().device


def test_what_the_context_of_evaluate_and_predict_is(points, net):
    "Not the fit's: no epoch, no training, the data in use is what was given, the model is the run's own."
    run = st.fit(net, points, **options())
    seen = []

    def look(ctx):
        seen.append(
            (
                ctx is run.ctx,
                ctx.model is net,
                ctx.epoch,
                ctx.training,
                ctx.valid_iter,
                ctx.data is ctx.valid_data,
                net.training,
            )
        )

    run.evaluate(points, callbacks=at("on_enter_valid_pred", look))
    run.predict(points, callbacks=at("on_enter_predict_pred", look))
    assert seen == [(False, True, 0, False, 1, True, False)] * 2


def test_counters_at_the_breakpoints(points, net):
    "Training's batches are counted by iter and validation's by valid_iter, which begins at 0 in each validation."
    seen = []

    class Look(st.Callback):
        def note(self, ctx):
            seen.append((ctx.state, ctx.epoch, ctx.iter, ctx.valid_iter, ctx.training))

        on_fit_begin = on_epoch_begin = on_train_batch_begin = on_valid_begin = (
            on_valid_batch_begin
        ) = note

    batches = [points, points]
    st.fit(net, batches, valid=batches[:1], callbacks=Look(), **options(dataloader_options=None))
    epoch = [
        ("batch", 1, 0, True),
        ("batch", 2, 0, True),
        ("valid", 2, 0, False),
        ("valid_batch", 2, 1, False),
    ]
    assert seen[:2] == [("fit", 0, 0, 0, False), ("epoch", 1, 0, 0, False)]
    assert [
        (state, *rest) for state, number, *rest in seen if number and state != "epoch"
    ] == epoch * 2
    assert seen[6] == ("epoch", 2, 0, 1, False)


def test_gradients_are_there_until_the_next_batch(points, net):
    "After the step a callback can still look at them; they are cleared before the next batch is computed."
    after, before = [], []

    class Look(st.Callback):
        def on_train_batch_after_step(self, ctx):
            after.append(net[0].weight.grad.norm().item())

        def on_enter_pred(self, ctx):
            before.append(net[0].weight.grad)

    st.fit(net, points, callbacks=Look(), **options())
    assert len(after) == 6
    assert min(after) > 0
    assert before == [None] * 6


def test_a_callback_may_change_the_input(points, net):
    "What it writes into ctx.input on the way into `pred` is what the model sees."
    seen = []
    double = at("on_enter_pred", lambda ctx: setattr(ctx, "input", ctx.input * 2), writes={"input"})
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    st.fit(net, [points], callbacks=double, **options(epochs=1, dataloader_options=None))
    assert torch.equal(seen[0], points[0] * 2)


def test_a_callback_may_change_the_loss_function(points, net):
    "It acts from the next batch on."

    def soften(ctx):
        if ctx.epoch == 2:
            ctx.loss_fn = lambda pred, target: 0 * F.cross_entropy(pred, target)

    run = st.fit(
        net, points, callbacks=at("on_enter_epoch", soften, writes={"loss_fn"}), **options()
    )
    first, second = run.history["train_loss"]
    assert first > 0
    assert second == 0


def test_other_training_data_and_more_epochs_act_at_once(points, net):
    "What a callback sets is read where it is used: the data when the next epoch begins, max_epochs before each epoch."

    class Shrink(st.Callback):
        writes = {"train_data", "max_epochs"}

        def on_exit_epoch(self, ctx):
            ctx.train_data = [points]
            ctx.max_epochs = 3

    run = st.fit(net, points, callbacks=Shrink(), **options(epochs=1))
    assert run.history["step"] == [3, 4, 5]
    assert run.outcome == st.Completed(3)


# ---------------------------------------------------------------- how it begins and ends


def test_no_epochs_still_begin_and_end(points, net):
    "With epochs=0 the fit's breakpoints are fired, and no other."
    seen = []

    class Look(st.Callback):
        def on_fit_begin(self, ctx):
            seen.append("begin")

        def on_epoch_begin(self, ctx):
            seen.append("epoch")

        def on_fit_end(self, ctx):
            seen.append("end")

    assert st.fit(net, points, callbacks=Look(), **options(epochs=0)).outcome == st.Completed(0)
    assert seen == ["begin", "end"]


def test_callbacks_hear_why_a_run_ended(points, net):
    "What luz has breakpoints of their own for (early stopping, interrupts) is the outcome, there to read on entering `end`."
    heard = []
    listen = at("on_enter_end", lambda ctx: heard.append(ctx.outcome))
    st.fit(
        net,
        points,
        stop=st.EarlyStopping("train_loss", patience=1, min_delta=9.0),
        callbacks=[listen],
        **options(epochs=9),
    )
    st.fit(
        net,
        points,
        callbacks=[listen, at("on_enter_pred", lambda ctx: signal.raise_signal(signal.SIGINT))],
        **options(),
    )
    st.fit(
        net,
        points,
        callbacks=[listen, at("on_exit_step", lambda ctx: ctx.request_stop("enough"))],
        **options(),
    )
    assert heard == [
        st.Stopped(2, "train_loss has not improved for 1 row"),
        st.Interrupted(1, "SIGINT"),
        st.Stopped(1, "enough"),
    ]


def test_an_interrupt_in_the_first_hook_ends_the_run_in_order(points, net):
    "There is no moment in a fit at which an interrupt would escape: not on entering it either."

    def interrupt(ctx):
        raise KeyboardInterrupt

    run = st.fit(net, points, callbacks=at("on_fit_begin", interrupt), **options())
    assert run.outcome == st.Interrupted(0, "KeyboardInterrupt")
    assert run.ctx.step == 0


def test_early_stopping_can_be_used_again(points, net):
    "It has no memory of its own: the same guard stops a second fit after as many rows."
    stop = st.EarlyStopping("train_loss", patience=2, min_delta=9.0)
    for _ in range(2):
        run = st.fit(net, points, stop=stop, **options(epochs=9))
        assert run.outcome == st.Stopped(3, "train_loss has not improved for 2 rows")


def test_several_reasons_to_stop_are_one_guard(points, net):
    "Where luz takes two callbacks, guards combine; the one that held is the reason."
    stop = st.EarlyStopping("train_loss", patience=7) | st.MaxSteps(4)
    assert st.fit(net, points, stop=stop, **options(epochs=9)).outcome == st.Stopped(
        2, "4 steps made"
    )


# ---------------------------------------------------------------- loaders


def test_the_loaders_that_are_made(points, net):
    "32 samples a batch; training shuffles, validation does not, and neither drops the last batch."
    run = st.fit(net, points, valid=points, **options(dataloader_options=None))
    train, valid = run.ctx.train_data, run.ctx.valid_data
    assert (train.batch_size, valid.batch_size) == (32, 32)
    assert isinstance(train.sampler, RandomSampler)
    assert isinstance(valid.sampler, SequentialSampler)
    assert not train.drop_last
    assert not valid.drop_last
    assert run.ctx.samples == 2 * 22


def test_options_for_loaders_serve_both_where_they_make_sense(points, net):
    "The size of a batch holds for both; order and leaving out are training's alone."
    run = st.fit(
        net,
        points,
        valid=points,
        **options(dataloader_options={"batch_size": 8, "drop_last": True, "shuffle": False}),
    )
    train, valid = run.ctx.train_data, run.ctx.valid_data
    assert (train.batch_size, valid.batch_size) == (8, 8)
    assert (len(train), len(valid)) == (2, 3)
    assert isinstance(train.sampler, SequentialSampler)


def test_options_leave_a_validation_loader_as_it_is(points, net):
    "They make the training's loader; a validation loader that is there already keeps its own."
    mine = DataLoader(TensorDataset(*points), batch_size=5)
    run = st.fit(net, points, valid=mine, **options())
    assert run.ctx.valid_data is mine
    assert run.ctx.train_data.batch_size == 8


def test_a_loader_of_the_users_is_not_touched(points, net):
    "Fitting and evaluating twice with it leaves its class and its attributes as they are."
    loader = DataLoader(TensorDataset(*points), batch_size=8)
    before = (type(loader), dict(vars(loader)))
    run = st.fit(net, loader, valid=loader, **options(dataloader_options=None))
    run.evaluate(loader)
    run.fit(epochs=1)
    assert (type(loader), dict(vars(loader))) == before


class Scripted:
    "Anything that can be iterated over is data."

    def __init__(self, points):
        self.points = points

    def __iter__(self):
        yield self.points


def test_a_class_of_ones_own_is_data(points, net):
    "What gives batches when it is iterated over needs no registration."
    run = st.fit(net, Scripted(points), valid=Scripted(points), **options(dataloader_options=None))
    assert run.ctx.step == 2


# ---------------------------------------------------------------- parts of one's own


def test_a_backward_of_ones_own(points, net):
    "It is the action of a state, in the table and in the picture: here, one that scales the gradients."

    def doubled(ctx):
        "compute doubled gradients"
        (2 * ctx.loss_grad).backward()
        ctx.pending += 1

    net[2].p = 0.0
    by_hand = copy.deepcopy(net)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    (2 * F.cross_entropy(by_hand(points[0]), points[1])).backward()
    optimizer.step()
    life = st.supervised(validate=None).replace("backward", action=doubled)
    run = st.fit(net, [points], lifecycle=life, **options(epochs=1, dataloader_options=None))
    assert bits(net) == bits(by_hand)
    assert "compute doubled gradients" in str(run.lifecycle)


class Counted(st.Accelerator):
    """An accelerator of one's own: it counts how often it computes gradients."""

    calls = 0

    def backward(self, loss, inputs=None):
        Counted.calls += 1
        super().backward(loss, inputs)


def test_an_accelerator_of_ones_own(points, net):
    "A subclass of ours: what it overrides is what the run uses, and the weights are the same."
    net[2].p = 0.0
    alone = copy.deepcopy(net)
    st.fit(net, [points], accelerator=Counted("cpu"), **options(dataloader_options=None))
    assert Counted.calls == 2
    st.fit(alone, [points], **options(dataloader_options=None))
    assert bits(net) == bits(alone)


def test_an_accelerator_in_a_loop_by_hand(points, net):
    "prepare, device, autocast, backward and unwrap serve without a fit."
    accelerator = st.Accelerator("cpu")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    accelerator.prepare(net, [optimizer])
    before = bits(net)
    with accelerator.autocast("bfloat16"):
        loss = F.cross_entropy(net(points[0].to(accelerator.device)), points[1])
    accelerator.backward(loss)
    optimizer.step()
    assert bits(net) != before
    assert accelerator.unwrap(net) is net


def test_a_prediction_of_ones_own(points, net):
    "predict(compute=) asks the function in place of the model's forward; the batches are joined as ever."

    def probabilities(ctx):
        "predict probabilities"
        return ctx.model(ctx.input).softmax(1)

    run = st.fit(net, points, **options())
    expected = run.predict(points, dataloader_options={"batch_size": 8}).softmax(1)
    assert torch.equal(
        run.predict(points, compute=probabilities, dataloader_options={"batch_size": 8}), expected
    )
    assert "predict probabilities" in str(st.prediction(compute=probabilities))


class Centres(torch.nn.Module):
    """A loss with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, pred, target):
        return F.cross_entropy(pred * self.scale, target)


def test_the_parameters_of_a_loss_are_trained_with_an_optimizer_that_has_them(points, net):
    "The loss module itself is called, on the run's device: give an optimizer with both sets of parameters."
    loss = Centres()
    optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1)
    run = st.fit(net, points, **options(loss=loss, optimizer=optimizer, opt_hparams=None))
    assert run.ctx.loss_fn is loss
    assert loss.scale.item() != 1.0


def test_an_optimizer_by_the_models_own_method(points):
    "A method of the model that makes its optimizers is called where the fit is; several come by name."

    class Own(torch.nn.Sequential):
        def optimizers(self, lr):
            return {
                "first": torch.optim.SGD(self[0].parameters(), lr=lr),
                "last": torch.optim.Adam(self[2].parameters(), lr=lr),
            }

    model = Own(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    run = st.fit(model, points, **options(optimizer=model.optimizers(lr=0.02), opt_hparams=None))
    assert list(run.ctx.optimizers) == ["first", "last"]
    assert set(run.ctx.get_metrics("train")) == {"loss_first", "loss_last"}


def test_callbacks_build_on_each_other(points, net):
    "A callback is a class: it takes arguments, keeps what it needs and is inherited from."

    class Note(st.Callback):
        def __init__(self, every):
            self.every, self.seen = every, []

        def on_exit_step(self, ctx):
            if ctx.step % self.every == 0:
                self.seen.append(self.value(ctx))

        def value(self, ctx):
            return ctx.step

    class Doubled(Note):
        def value(self, ctx):
            return 2 * super().value(ctx)

    plain, doubled = Note(every=2), Doubled(every=3)
    st.fit(net, points, callbacks=[plain, doubled], **options())
    assert plain.seen == [2, 4, 6]
    assert doubled.seen == [6, 12]


def test_a_failing_metric_says_where(points, net):
    "The error is the metric's own; the note has state, epoch and batch."

    class Broken:
        def update(self, pred, target):
            raise OSError("no number")

        def compute(self):
            return 0.0

        def reset(self): ...

    with pytest.raises(OSError, match="no number") as caught:
        st.fit(net, points, metrics={"broken": Broken()}, **options())
    assert any("epoch 1, batch 1, step 0" in note for note in caught.value.__notes__)
    with contextlib.suppress(OSError):
        caught.value.run.fit(epochs=1)


# ---------------------------------------------------------------- checkpoints


def losses(*values):
    "A callback that writes a column whose values are given, one an epoch."
    return at(
        "on_enter_record",
        lambda ctx: ctx.log_metric("mine", values[ctx.epoch - 1], set="valid"),
        writes={"history.valid_mine"},
    )


def kept(folder):
    "What is in a folder of checkpoints: steps and monitored values, the newest first."
    return [(saved.about["step"], saved.about["value"]) for saved in directory.complete(folder)]


def test_checkpoints_are_made_at_intervals(points, net, tmp_path):
    "At the ends of epochs, or after so many steps; the folder is made, and names say step and state."
    st.fit(net, points, callbacks=Checkpoint(tmp_path / "a" / "epochs", keep=9), **options())
    st.fit(
        net,
        points,
        callbacks=Checkpoint(tmp_path / "steps", st.Every(2, "steps"), keep=9, at_end=False),
        **options(),
    )
    assert kept(tmp_path / "a" / "epochs") == [(6, None), (3, None)]
    assert [step for step, _ in kept(tmp_path / "steps")] == [6, 4, 2]
    assert sorted(path.name for path in (tmp_path / "a" / "epochs").iterdir() if path.is_dir()) == [
        "step-00000003-next_epoch",
        "step-00000006-next_epoch",
    ]


@pytest.mark.parametrize(("mode", "best"), [("min", {12, 15}), ("max", {3, 6}), ("zero", {9, 18})])
def test_the_best_and_the_latest_checkpoints_are_kept(mode, best, points, net, tmp_path):
    "By a column, in any mode; beside the best ones the two latest stay."
    values = (3.0, 1.0, 0.5, -2.0, -9.0, 0.8, 0.9)
    saver = Checkpoint(tmp_path, keep=2, monitor="valid_mine", mode=mode)
    st.fit(net, points, callbacks=[losses(*values), saver], **options(epochs=7))
    assert {step for step, _ in kept(tmp_path)} == best | {18, 21}
    assert {step: value for step, value in kept(tmp_path) if step in best} == {
        step: values[step // 3 - 1] for step in best
    }


def test_a_monitor_of_checkpoints_is_checked(points, net, tmp_path):
    "A column that nothing writes is an error before training; a mode that is none, where it is made."
    with pytest.raises(st.ConfigError, match="nothing writes the monitor 'valid_los'"):
        st.fit(
            net,
            points,
            valid=points,
            callbacks=Checkpoint(tmp_path, monitor="valid_los"),
            **options(),
        )
    with pytest.raises(
        st.ConfigError,
        match="mode must be one of 'min', 'max', 'zero', got 'mim'; did you mean 'min'",
    ):
        Checkpoint(tmp_path, mode="mim")


class Crash(st.Callback):
    """Fails once, in the middle of the second epoch."""

    crashed = False

    def on_enter_pred(self, ctx):
        if ctx.epoch == 2 and ctx.iter == 2 and not Crash.crashed:
            Crash.crashed = True
            raise OSError("pulled the plug")


def test_the_same_script_goes_on_where_it_broke(points, net, tmp_path, monkeypatch):
    "With resume='last' the first start begins, and the next one goes on: no epoch is begun twice, and the result is the same."
    monkeypatch.setattr(Crash, "crashed", False)
    begun = []

    def script(folder, *callbacks):
        saver = Checkpoint(folder, st.Every(1, "steps"))
        note = at("on_epoch_begin", lambda ctx: begun.append(ctx.epoch))
        return st.fit(
            copy.deepcopy(net),
            points,
            valid=points,
            callbacks=[saver, note, *callbacks],
            resume="last",
            seed=3,
            **options(epochs=3),
        )

    whole = script(tmp_path / "whole")
    assert begun == [1, 2, 3]
    begun.clear()
    with pytest.raises(OSError, match="pulled the plug"):
        script(tmp_path / "broken", Crash())
    run = script(tmp_path / "broken", Crash())
    assert begun == [1, 2, 3]
    assert bits(run.model, run.ctx.opt) == bits(whole.model, whole.ctx.opt)
    assert run.history["valid_loss"] == whole.history["valid_loss"]


def test_an_interrupted_or_finished_run_keeps_its_checkpoints(points, net, tmp_path):
    "Nothing is deleted when a run ends; more epochs go on from there, and without resume= the folder is refused."
    interrupt = at("on_enter_step", lambda ctx: signal.raise_signal(signal.SIGINT))
    first = st.fit(
        copy.deepcopy(net), points, callbacks=[Checkpoint(tmp_path), interrupt], **options(seed=1)
    )
    assert first.outcome == st.Interrupted(1, "SIGINT")
    run = st.fit(
        copy.deepcopy(net), points, callbacks=Checkpoint(tmp_path), resume="last", **options(seed=1)
    )
    assert run.outcome == st.Completed(2)
    again = st.fit(
        copy.deepcopy(net),
        points,
        callbacks=Checkpoint(tmp_path),
        resume="last",
        **options(epochs=3, seed=1),
    )
    assert again.history["epoch"] == [1, 2, 3]
    with pytest.raises(
        CheckpointError,
        match=r"has checkpoints of an earlier run, .* resume it by fit\(..., resume='last'\)",
    ):
        st.fit(net, points, callbacks=Checkpoint(tmp_path), **options())


def test_going_on_from_a_path_restores_everything_once(points, net, tmp_path):
    "The path is looked at when the fit begins; epoch, history, optimizer and callbacks are as they were, and no row is doubled."
    schedule = {"scheduler": torch.optim.lr_scheduler.StepLR, "step_size": 1, "gamma": 0.5}
    st.fit(
        copy.deepcopy(net),
        points,
        callbacks=[Checkpoint(tmp_path), st.LRScheduler(**schedule)],
        **options(seed=1),
    )
    run = st.fit(
        copy.deepcopy(net),
        points,
        callbacks=st.LRScheduler(**schedule),
        resume=tmp_path,
        **options(epochs=3, seed=1),
    )
    whole = st.fit(
        copy.deepcopy(net),
        points,
        callbacks=st.LRScheduler(**schedule),
        **options(epochs=3, seed=1),
    )
    assert run.history["epoch"] == [1, 2, 3]
    assert run.history["lr"] == whole.history["lr"] == [0.1, 0.05, 0.025]
    assert bits(run.model) == bits(whole.model)
    with pytest.raises(st.ConfigError, match="there is no checkpoint"):
        st.fit(net, points, resume=tmp_path / "nothing", **options())
