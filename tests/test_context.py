"""What a run knows and when: modes, gradients, the fields of a batch, the clock, and how it is shown."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import statetrain as st


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "dataloader_options": {"batch_size": 8},
        "epochs": 2,
        **more,
    }


class Everywhere(st.Callback):
    """Calls a function with the hook's name in every enter and exit hook."""

    def __init__(self, look, life=None):
        for name in (life or st.supervised()).names:
            for prefix in ("on_enter_", "on_exit_"):
                setattr(self, prefix + name, self._bound(look, prefix + name))

    def _bound(self, look, hook):
        def call(ctx):
            look(hook, ctx)

        return call


TRAIN = {"train", "next_batch", "draw", "batch", "pred", "loss", "backward", "step"}
VALID = {"valid", "next_valid_batch", "valid_draw", "valid_batch", "valid_pred", "valid_loss"}


# ---------------------------------------------------------------- modes


def flags(model):
    return [module.training for module in model.modules()]


def test_the_models_mode_belongs_to_the_scope(points, net):
    "Eval mode inside `valid`, and what the user had set everywhere else, in the training too."
    net[2].eval()  # a part of its own, in a model in train mode
    outside = flags(net)
    assert outside == [True, True, True, False, True]
    seen = {}

    def look(hook, ctx):
        state = hook.split("_", 2)[2]
        seen[hook] = flags(ctx.model) == ([False] * 5 if state in VALID else outside)

    st.fit(net, points, valid=0.3, callbacks=Everywhere(look), **options())
    assert set(seen) >= {f"on_enter_{name}" for name in TRAIN | VALID}
    assert all(seen.values()), [hook for hook, right in seen.items() if not right]
    assert flags(net) == outside


def test_training_and_data_say_which_scope_it_is(points, net):
    "`training`, `data` and `tally` follow the scopes, and nothing is stale after a validation."
    wrong = []

    def look(hook, ctx):
        state = hook.split("_", 2)[2]
        here = "train" if state in TRAIN else "valid" if state in VALID else None
        tally = None if ctx.tally is None else ctx.tally.set
        data = (
            "train"
            if ctx.data is ctx.train_data
            else "valid"
            if ctx.data is ctx.valid_data
            else None
        )
        if (tally, data, ctx.training) != (here, here, here == "train"):
            wrong.append(hook)

    st.fit(net, points, valid=0.3, callbacks=Everywhere(look), **options())
    assert wrong == []


@pytest.mark.parametrize("state", ["pred", "valid_pred", "draw", "record"])
def test_a_failure_puts_the_modes_back(state, points, net):
    "Wherever it breaks, the model's mode and the gradient mode are what they were."
    net[2].eval()
    outside = flags(net)

    class Break(st.Callback):
        pass

    def broken(ctx):
        raise OSError("broken")

    setattr(Break, f"on_enter_{state}", lambda self, ctx: broken(ctx))
    with pytest.raises(OSError, match="broken"):
        st.fit(net, points, valid=0.3, callbacks=Break(), **options())
    assert flags(net) == outside
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("outer", [True, False])
def test_a_pause_between_steps_looks_like_outside(outer, points, net):
    "While a stepped run pauses, the model's mode and the gradient mode are the user's, and may be changed without harm."
    net.eval()
    run = st.fit(net, points, valid=0.3, **options(epochs=0))
    run.ctx.max_epochs = 2
    inside = {}

    def look(hook, ctx):
        inside.setdefault(hook.split("_", 2)[2], set()).add(
            (ctx.model.training, torch.is_grad_enabled())
        )

    machine = st.Machine(run.lifecycle, Everywhere(look))
    with torch.set_grad_enabled(outer):
        for _ in machine.steps(run.ctx):
            assert not any(flags(net))
            assert torch.is_grad_enabled() is outer
            net.eval()
            torch.set_grad_enabled(outer)
    assert run.outcome == st.Completed(2)
    assert inside["pred"] == {(True, False)}
    assert inside["valid_pred"] == inside["record"] == {(False, False)}


def test_a_mode_set_in_a_pause_holds_outside(points, net):
    "What a user sets while the run pauses outside of train is kept when train has closed."
    net.eval()
    run = st.fit(net, points, **options(epochs=0))
    run.ctx.max_epochs = 1
    for transition in run.machine.steps(run.ctx):
        if transition.dest == "backward":
            net[2].train()
    assert flags(net) == [False, False, False, True, False]


# ---------------------------------------------------------------- gradients


def test_callbacks_run_without_gradients(points, net):
    "Gradients are off in every hook from the fit's first to its last, and on again after it."
    on = []
    st.fit(
        net,
        points,
        valid=0.3,
        callbacks=Everywhere(
            lambda hook, ctx: on.append(hook) if torch.is_grad_enabled() else None
        ),
        **options(),
    )
    assert set(on) <= {"on_enter_end"}  # after the fit's scope has closed
    assert torch.is_grad_enabled()


def test_states_of_ones_own_in_train_compute_with_gradients(points, net):
    "A state inserted in train may compute a part of the loss; one inserted in valid runs without gradients."
    seen = {}

    def penalty(ctx):
        "add a penalty"
        seen["penalty"] = torch.is_grad_enabled()
        ctx.loss_grad = ctx.loss_grad + 0.1 * sum(p.square().sum() for p in ctx.model.parameters())

    def look(ctx):
        "look at the prediction"
        seen["look"] = torch.is_grad_enabled()
        assert not ctx.pred.requires_grad

    life = st.supervised().insert(st.State("penalty", penalty), between=("loss", "backward"))
    life = life.insert(st.State("look", look), between=("valid_pred", "valid_loss"))

    by_hand = torch.nn.Linear(4, 3)
    model = torch.nn.Linear(4, 3)
    model.load_state_dict(by_hand.state_dict())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    loss = F.cross_entropy(by_hand(points[0]), points[1])
    (loss + 0.1 * sum(p.square().sum() for p in by_hand.parameters())).backward()
    optimizer.step()

    st.fit(
        model,
        [points],
        valid=[points],
        lifecycle=life,
        **options(epochs=1, dataloader_options=None),
    )
    assert seen == {"penalty": True, "look": False}
    assert torch.equal(model.weight, by_hand.weight)


def test_it_trains_inside_no_grad(points, net):
    "A fit called where gradients are off turns them on for its own computations only."
    before = net[0].weight.clone()
    with torch.no_grad():
        st.fit(net, points, **options())
        assert not torch.is_grad_enabled()
    assert not torch.equal(net[0].weight, before)


def test_a_step_of_ones_own(points, net):
    "`step_opt` makes the step in place of optimizer.step(), as a gradient scaler does."
    calls = []

    class Own(st.Callback):
        writes = {"step_opt"}

        def on_enter_fit(self, ctx):
            ctx.step_opt = calls.append

    before = net[0].weight.clone()
    run = st.fit(net, points, callbacks=Own(), **options())
    assert calls == [run.ctx.opt] * 6
    assert run.ctx.step == 6
    assert torch.equal(net[0].weight, before)


# ---------------------------------------------------------------- the fields of a batch


def test_what_belongs_to_a_batch_goes_with_it(points, net):
    "Batch, input, target, prediction and loss are there until the batch's last exit hook, and not after it."
    fields = ("batch", "input", "target", "pred", "loss_grad", "loss")
    there, after = {}, {}

    def look(hook, ctx):
        there[hook] = {name for name in fields if getattr(ctx, name) is not None}

    class After(st.Callback):
        def on_transition(self, ctx):
            if ctx.transition.dest in ("next_batch", "next_valid_batch"):
                after[ctx.transition.dest] = {
                    name for name in fields if getattr(ctx, name) is not None
                }

    run = st.fit(net, points, valid=0.3, callbacks=[Everywhere(look), After()], **options())
    assert there["on_enter_batch"] == {"batch"}
    assert there["on_enter_pred"] == {"batch", "input", "target"}
    assert there["on_enter_loss"] == {"batch", "input", "target", "pred"}
    assert there["on_exit_batch"] == there["on_exit_valid_batch"] == set(fields)
    assert after == {"next_batch": set(), "next_valid_batch": set()}
    assert math.isfinite(run.ctx.loss_value)


def test_the_optimizer_is_known_before_pred_in_validation_too(points, net):
    "`opt`, `opt_name` and `loss_fn` are set before `pred` and `valid_pred`, with two optimizers those of each turn."
    seen = []

    class Look(st.Callback):
        def on_enter_pred(self, ctx):
            seen.append(
                (
                    "pred",
                    ctx.opt_name,
                    ctx.opt is ctx.optimizers[ctx.opt_name],
                    ctx.loss_fn is ctx.loss_fns[ctx.opt_name],
                )
            )

        def on_enter_valid_pred(self, ctx):
            seen.append(
                (
                    "valid_pred",
                    ctx.opt_name,
                    ctx.opt is ctx.optimizers[ctx.opt_name],
                    ctx.loss_fn is ctx.loss_fns[ctx.opt_name],
                )
            )

    losses = {"first": F.cross_entropy, "last": lambda pred, target: F.cross_entropy(pred, target)}
    optimizers = {
        "first": torch.optim.SGD(net[0].parameters(), lr=0.1),
        "last": torch.optim.SGD(net[3].parameters(), lr=0.1),
    }
    st.fit(
        net, [points], valid=[points], loss=losses, optimizer=optimizers, epochs=2, callbacks=Look()
    )
    turns = [
        ("pred", "first", True, True),
        ("pred", "last", True, True),
        ("valid_pred", "first", True, True),
        ("valid_pred", "last", True, True),
    ]
    assert seen == turns * 2


def test_the_counters(points, net):
    "Epoch, batch, step and sample counters stand where their docstrings say, and `batches` goes on over epochs and fits."
    rows = []

    class Look(st.Callback):
        def on_enter_pred(self, ctx):
            rows.append((ctx.epoch, ctx.iter, ctx.step, ctx.samples, ctx.batches, ctx.batch_size))

    run = st.fit(net, points, callbacks=Look(), **options())
    run.fit(epochs=1)
    assert rows == [
        (1, 1, 0, 8, 1, 8),
        (1, 2, 1, 16, 2, 8),
        (1, 3, 2, 22, 3, 6),
        (2, 1, 3, 30, 4, 8),
        (2, 2, 4, 38, 5, 8),
        (2, 3, 5, 44, 6, 6),
        (3, 1, 6, 52, 7, 8),
        (3, 2, 7, 60, 8, 8),
        (3, 3, 8, 66, 9, 6),
    ]
    assert run.ctx.length == 3


# ---------------------------------------------------------------- the clock


class Clock:
    """Seconds that pass when it is told so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_time_is_counted_within_fits_only(points, net):
    "`seconds` is what all fits took, `fit_seconds` the present one; between fits the clock stands."
    clock = Clock()

    class Slow(st.Callback):
        def on_enter_pred(self, ctx):
            clock.now += 2

    run = st.fit(net, points, callbacks=Slow(), clock=clock, **options(epochs=1))
    assert run.history["seconds"] == [6.0]
    assert run.ctx.seconds == 6.0
    clock.now += 3600
    assert run.ctx.seconds == 6.0
    assert run.ctx.fit_seconds == 0.0
    run.fit(epochs=1)
    assert run.history["seconds"] == [6.0, 12.0]


def test_a_time_limit_is_for_each_fit(points, net):
    "A time limit acts within a batch, and a fit that goes on has the same time again."
    clock = Clock()

    class Slow(st.Callback):
        def on_enter_pred(self, ctx):
            clock.now += 2

    run = st.fit(
        net, points, callbacks=Slow(), clock=clock, stop=st.TimeLimit(seconds=3.5), **options()
    )
    assert run.outcome == st.Stopped(1, "after 3.5 seconds")
    assert run.ctx.step == 2
    run.fit(epochs=5)
    assert run.outcome == st.Stopped(2, "after 3.5 seconds")
    assert run.ctx.step == 4


def test_a_clock_that_runs_backwards_does_no_harm(points, net):
    "Time that goes back leaves the training as it is."
    clock = Clock()

    class Back(st.Callback):
        def on_enter_pred(self, ctx):
            clock.now -= 500

    run = st.fit(
        net,
        points,
        valid=0.3,
        validate=st.Every(10, "seconds"),
        callbacks=Back(),
        clock=clock,
        stop=st.TimeLimit(seconds=3),
        **options(),
    )
    assert run.outcome == st.Completed(2)
    assert run.ctx.step == 4


# ---------------------------------------------------------------- how it is read and shown


def test_a_context_is_read_by_paths(points, net):
    "Fields, items, attributes and positions, as deep as one likes; what is not there is named."
    seen = {}

    class Look(st.Callback):
        def on_enter_pred(self, ctx):
            seen["input"] = ctx["batch[0]"] is ctx.input

    run = st.fit(net, points, callbacks=Look(), **options())
    ctx = run.ctx
    assert seen == {"input": True}
    assert ctx["epoch"] == 2
    assert ctx["history[-1].train_loss"] == run.history["train_loss"][-1]
    assert ctx["opt_hparams.lr"] == 0.1
    assert ctx["optimizers.opt.param_groups[0].lr"] == 0.1
    assert torch.equal(ctx["model.3.weight"], net[3].weight)
    with pytest.raises(KeyError, match=r"no 'epohc'; did you mean 'epoch'"):
        ctx["epohc"]
    with pytest.raises(KeyError, match=r"a Context has no 'histroy'; did you mean 'history'"):
        ctx["histroy[0]"]
    with pytest.raises(KeyError, match=r"a dict has no 'train_lss'; did you mean 'train_loss'"):
        ctx["history[0].train_lss"]


@pytest.mark.parametrize(
    "use",
    [lambda ctx: setattr(ctx, "los_value", 1.0), lambda ctx: ctx.los_value],
    ids=["set", "read"],
)
def test_a_misspelt_field_is_an_error(use, points, net):
    "The context has slots: reading or setting what does not exist fails and says what is near."

    class Typo(st.Callback):
        def on_enter_step(self, ctx):
            use(ctx)

    with pytest.raises(AttributeError) as caught:
        st.fit(net, points, callbacks=Typo(), **options())
    assert "did you mean 'loss_value'" in caught.value.__notes__[0]
    assert caught.value.run.outcome.state == "step"


def test_a_context_shows_where_the_run_stands(points, net):
    "print(ctx) lists state, transition, outcome, counters, loss and the last row; before, within and after a run."
    assert str(st.Context()).splitlines()[0].split() == ["state", "before", "the", "run"]
    pictures = []

    class Look(st.Callback):
        def on_exit_loss(self, ctx):
            pictures.append((str(ctx), repr(ctx)))

    run = st.fit(net, points, valid=0.3, callbacks=Look(), **options())
    text, line = pictures[-1]
    shown = dict(row.strip().split("  ", 1) for row in text.splitlines())
    assert shown["state"] == "loss"
    assert shown["last transition"] == "loss -> backward / count the loss"
    assert shown["outcome"] == "still running"
    assert shown["epoch"] == "2 of 2"
    assert shown["batch"] == "2 of 2"
    assert shown["step"] == "3"
    assert float(shown["loss"]) > 0
    assert shown["last row"].startswith("epoch=1, batch=2, step=2, samples=16, seconds=")
    assert line == "<Context: loss, epoch 2, batch 2, step 3>"
    assert "Completed(epoch=2)" in str(run.ctx)


def test_deferred_clean_ups_run_on_every_path(points, net):
    "What is registered with ctx.defer runs once, the last first, whether the run ends well, stops or fails."
    done = []

    class Defer(st.Callback):
        def __init__(self, ending):
            self.ending = ending

        def on_enter_fit(self, ctx):
            ctx.defer(lambda: done.append("first"))
            ctx.defer(lambda: done.append("second"))

        def on_exit_step(self, ctx):
            if self.ending is not None:
                raise self.ending

    for ending in (None, st.StopFit("enough"), OSError("broken")):
        done.clear()
        try:
            st.fit(net, points, callbacks=Defer(ending), **options())
        except OSError:
            pass
        except st.LifecycleError as error:  # an exit hook may raise no event
            # Two of three endings raise
            assert "call ctx.request_stop(reason)" in str(error)  # noqa: PT017
        assert done == ["second", "first"]


@pytest.mark.parametrize("outside", [True, False])
def test_outside_of_fit_hooks_have_the_callers_gradient_mode(outside):
    """Entering the end, a failure, and deferred functions: the run has given the mode back."""
    seen = {}

    class Look(st.Callback):
        def on_enter_fit(self, ctx):
            seen["fit"] = torch.is_grad_enabled()
            ctx.defer(lambda: seen.setdefault("deferred", torch.is_grad_enabled()))

        def on_enter_record(self, ctx):
            seen["record"] = torch.is_grad_enabled()

        def on_enter_end(self, ctx):
            seen["end"] = torch.is_grad_enabled()

        def on_exit_next_epoch(self, ctx):
            if seen.get("end") is not None:
                raise ZeroDivisionError

        def on_enter_failed(self, ctx):
            seen["failed"] = torch.is_grad_enabled()

    look, data = Look(), (torch.zeros(4, 2), torch.zeros(4, 1))
    sgd = {"loss": torch.nn.functional.mse_loss, "optimizer": torch.optim.SGD, "epochs": 1}
    with torch.set_grad_enabled(outside):
        st.fit(torch.nn.Linear(2, 1), data, callbacks=look, verbose=False, **sgd)
        with pytest.raises(ZeroDivisionError):
            st.fit(torch.nn.Linear(2, 1), data, callbacks=look, verbose=False, **sgd)
    assert seen == dict.fromkeys(("fit", "record"), False) | dict.fromkeys(
        ("deferred", "end", "failed"), outside
    )


# ---------------------------------------------------------------- what callbacks assign


def assigning(name, value):
    "A run in which a callback assigns a field in the first epoch."
    inputs, targets = torch.zeros(8, 2), torch.zeros(8, 1)

    @st.on("enter_epoch")
    def assign(ctx):
        if ctx.epoch == 1:
            setattr(ctx, name, value)

    return st.fit(
        torch.nn.Linear(2, 1),
        (inputs, targets),
        loss=F.mse_loss,
        optimizer=torch.optim.SGD,
        epochs=2,
        callbacks=assign,
    )


@pytest.mark.parametrize("value", ["five", 2.5, True, None, math.nan])
def test_a_limit_of_epochs_that_is_none_is_refused_before_the_next_one(value):
    "No raw error of a comparison, and no number of epochs that was not meant."
    with pytest.raises(st.ConfigError, match=r"ctx.max_epochs must be a whole number of epochs"):
        assigning("max_epochs", value)


@pytest.mark.parametrize(("value", "epochs"), [(1, 1), (3, 3), (3.0, 3)])
def test_a_limit_of_epochs_may_be_assigned(value, epochs):
    "The run makes that many."
    assert assigning("max_epochs", value).outcome == st.Completed(epochs)


def test_a_reason_to_stop_is_a_text():
    "Assigned or requested, anything else is refused."
    with pytest.raises(st.ConfigError, match=r"ctx.stop must be the reason as a text, got 5"):
        assigning("stop", 5)
    with pytest.raises(st.ConfigError, match="request_stop takes the reason as a text, got None"):
        st.Context().request_stop(None)


@pytest.mark.parametrize("name", ["epoch", "step", "samples", "first_row"])
def test_a_field_of_another_kind_is_named_in_the_error_that_follows(name):
    "Torch's or Python's own error says what went wrong; the note says which field was assigned."
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever trips over it first
        assigning(name, "two")
    assert any(f"has assigned ctx.{name} = 'two'" in note for note in caught.value.__notes__)
