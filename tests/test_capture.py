"""What a batch leaves behind is kept only if somebody reads it, and then only that."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import statetrain as st
from statetrain.compute.capture import Capture, capturing, reads_of
from statetrain.testing.resuming import assert_resumable


class Net(nn.Module):
    """An encoder of two layers that gives a pair, and a head."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"first": nn.Linear(4, 6), "second": nn.Linear(6, 5)})
        self.pair = Pair()
        self.head = nn.Linear(5, 3)

    def forward(self, points):
        return self.head(self.pair(self.encoder["second"](self.encoder["first"](points).relu()))[0])


class Pair(nn.Module):
    def forward(self, x):
        return x, {"mean": x.mean()}


def made():
    torch.manual_seed(0)
    return Net()


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "dataloader_options": {"batch_size": 8, "shuffle": False},
        **more,
    }


class Reader(st.Callback):
    """Reads paths at one hook, and counts the model's forward hooks there."""

    anywhere = True

    def __init__(self, *reads, at="on_exit_step", paths=None):
        self.reads, self.seen, self.hooks = reads, [], []
        setattr(self, at, lambda ctx: self._look(ctx, reads if paths is None else paths))

    def _look(self, ctx, paths):
        self.seen.append({path: ctx[path] for path in paths})
        self.hooks.append(hooks(ctx.model))


def hooks(model):
    return sorted(name for name, module in model.named_modules() for _ in module._forward_hooks)


class Clones(TorchDispatchMode):
    """Counts the clones of tensors, by shape."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.clone.default:
            self.shapes.append(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))


def test_without_readers_nothing_is_captured(points):
    "No forward hook on any module, no clone of any parameter, no callback more, and the fields are empty."
    watch = Reader(at="on_exit_step")
    with Clones() as clones:
        run = st.fit(made(), points, valid=points, callbacks=watch, **options())
    assert watch.hooks == [[]] * 6
    assert clones.shapes == []
    assert run.machine.callbacks == (watch,)
    assert run.ctx.interms is run.ctx.grads is run.ctx.updates is None


@pytest.mark.parametrize(
    "callback",
    [
        st.GradientClip(1.0),
        st.EMA(),
        st.KeepBest("train_loss"),
        st.Mixup(),
        st.Schedule("opt.lr", 0.1),
        st.SanityCheck(without="validation_data_is_given"),
        st.Profile(),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_callbacks_that_ship_have_nothing_captured(callback, points):
    "They find what they change where it is: with none of them is there a callback more."
    run = st.fit(made(), points, callbacks=callback, **options(epochs=1))
    assert run.machine.callbacks == (callback,)


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        (["interms.head"], ["head"]),
        (["interms.pair[1].mean"], ["pair"]),
        (["interms.encoder.*"], ["encoder.first", "encoder.second"]),
        (["interms.*", "interms.encoder.first"], ["encoder", "encoder.first", "head", "pair"]),
        (["interms.**"], ["encoder", "encoder.first", "encoder.second", "head", "pair"]),
        (["interms"], ["encoder", "encoder.first", "encoder.second", "head", "pair"]),
        (["interms.missing?"], []),
    ],
)
def test_hooks_are_on_the_modules_that_are_read(points, reads, expected):
    "Exactly those, while the run goes on; none after it."
    model, watch = made(), Reader(*reads, paths=[])
    st.fit(model, points, callbacks=watch, **options())
    assert watch.hooks == [expected] * 6
    assert hooks(model) == []


@pytest.mark.parametrize(
    ("reads", "shapes"),
    [
        (["updates.head.bias"], [(3,)]),
        (["updates.encoder.**.bias", "update_norms.head.bias"], [(6,), (5,), (3,)]),
        (["update_norms.encoder.first"], [(6, 4), (6,)]),
        (["grads.**", "grad_norms.**"], []),
    ],
)
def test_clones_are_of_the_parameters_that_are_read(points, reads, shapes):
    "One for each whose update or its norm is read, in each step; gradients are not copied."
    with Clones() as clones:
        st.fit(made(), points, callbacks=Reader(*reads), **options(epochs=1))
    assert clones.shapes == shapes * 3


def test_values_are_what_they_are_called(points):
    "Outputs, gradients, updates and norms are those that the model, backward and the step have made."
    watch = Reader(
        "interms.encoder.first",
        "grads.head.weight",
        "grad_norms.head.weight",
        "updates.head.weight",
        "update_norms.head.weight",
    )
    st.fit(made(), points, callbacks=watch, **options(epochs=1))
    x, y = points[0][:8], points[1][:8]
    model = made()
    F.cross_entropy(model(x), y).backward()
    hidden, grad, norm, update, size = watch.seen[0].values()
    assert torch.equal(hidden, model.encoder["first"](x))
    assert torch.equal(grad, model.head.weight.grad)
    assert torch.equal(norm, grad.norm())
    assert torch.allclose(update, -0.1 * grad, atol=1e-7)
    assert torch.equal(size, update.norm())


def test_gradients_are_there_from_backward_on(points):
    "After backward they are read by name, by group and by wildcards; with accumulation a step sees the window's mean."
    after = Reader(
        "grads.**",
        at="on_exit_backward",
        paths=["grads.head.bias", "grads.encoder.first", "grads.*.*"],
    )
    st.fit(made(), points, callbacks=after, **options(epochs=1))
    first = after.seen[0]
    assert set(first["grads.encoder.first"]) == {"weight", "bias"}
    assert set(first["grads.*.*"]) == {"grads.head.weight", "grads.head.bias"}
    norms = Reader("grad_norms.head.bias", at="on_exit_step")
    run = st.fit(made(), points, callbacks=norms, **options(epochs=1, accumulate=3))
    whole = made()
    sum(
        F.cross_entropy(whole(x), y)
        for x, y in zip(points[0].split(8), points[1].split(8), strict=True)
    ).div(3).backward()
    assert torch.allclose(norms.seen[0]["grad_norms.head.bias"], whole.head.bias.grad.norm())
    assert run.ctx.step == 1


def test_values_are_dropped_when_the_batch_closes(points):
    "At the next loop head, in validation and after the run there is nothing; reading it then says so."
    model = made()

    class Late(st.Callback):
        reads = ("interms.head", "grads.head.bias?", "updates.head.bias?")

        def __init__(self):
            self.seen = []

        def on_enter_next_batch(self, ctx):
            self.seen += [ctx.interms, ctx.grads, ctx.updates]

        def on_exit_valid_batch(self, ctx):
            self.seen += [ctx.grads, ctx.updates]
            assert list(ctx.interms) == ["head"]

    late = Late()
    run = st.fit(model, points, valid=points, callbacks=late, **options())
    assert set(late.seen) == {None}
    with pytest.raises(
        KeyError,
        match=(
            r"'interms\.head' is not captured in state 'end': it is, while a batch is open, if a"
            r" callback"
        ),
    ):
        run.ctx["interms.head"]
    assert run.ctx["interms.head?"] is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "interms.hed",
            "the model has no such module: 'interms.hed': there is no 'hed'; did you mean 'head'",
        ),
        ("updates.*", "; '*' is one part of a name, 'updates.**' are all"),
        ("interms.decoder.*", "it matches nothing; there are encoder, pair, head"),
        (
            "grads.head.wieght",
            (
                "the model has no such parameter: 'grads.head.wieght': there is no 'head.wieght';"
                " did you mean 'head.weight'"
            ),
        ),
        ("updates.**.wieght", "it matches nothing"),
        ("grads.head.weight.data", "'head.weight' has no 'data'"),
        ("grad_norms.haed", "did you mean 'head'"),
    ],
)
def test_misspelt_names_are_an_error_before_the_first_batch(points, path, words):
    "In a callback, a loss and a metric; nothing has been drawn."
    drawn = []

    def batches():
        drawn.append(1)
        yield points

    for more in (
        {"callbacks": Reader(path)},
        {"loss": st.Loss(F.cross_entropy, pred=path, target="target")},
        {"train_metrics": {"m": st.Metric(torch.std, x=path)}},
    ):
        with pytest.raises(st.ConfigError) as caught:
            st.fit(made(), batches, **{**options(dataloader_options=None), **more})
        assert words in str(caught.value)
    assert drawn == []


def fail(ctx):
    raise RuntimeError("broken")


def interrupt(ctx):
    raise KeyboardInterrupt


def stop(ctx):
    raise st.StopFit("enough")


@pytest.mark.parametrize("end", [fail, interrupt, stop])
def test_hooks_are_removed_on_every_path(points, end):
    "Also when the run fails, is interrupted or stopped in the middle of a batch, or its steps are closed."
    model, ender = made(), Reader("interms.**", paths=[])
    ender.on_enter_loss = end
    with pytest.raises(RuntimeError, match="broken") if end is fail else nullcontext():
        st.fit(model, points, callbacks=ender, **options())
    assert hooks(model) == []
    run = st.fit(model, points, callbacks=Reader("interms.**"), start=False, **options())
    with run.steps() as steps:
        steps.until("loss")
        assert len(hooks(model)) == 5
    assert hooks(model) == []


def test_losses_over_outputs_of_modules(points):
    "A loss on an output of a module trains as the one written by hand does."

    def by_hand(ctx):
        hidden = ctx.model.encoder["first"](ctx.input)
        loss = F.cross_entropy(ctx.model(ctx.input), ctx.target) + 0.1 * hidden.abs().mean()
        loss.backward()
        return loss

    losses = st.Losses(
        label=F.cross_entropy,
        sparse=st.Loss(
            lambda hidden: hidden.abs().mean(), hidden="interms.encoder.first", weight=0.1
        ),
    )
    run, hand = (
        st.fit(made(), points, **options(loss=losses)),
        st.fit(made(), points, **options(loss=None, compute=by_hand)),
    )
    for one, other in zip(run.model.parameters(), hand.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7)
    assert hooks(run.model) == []


def test_metrics_over_outputs_gradients_and_updates(points):
    "Each at its moment: outputs for both sets, weighted by samples; gradients and updates once a step, in training alone."

    def size(tensors):
        return torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(t) for t in tensors.values()])
        )

    metrics = {
        "hidden": st.Metric(torch.std, input="interms.encoder.second"),
        "grad": st.Metric(size, tensors="grads.**"),
        "update": st.Metric(size, tensors="updates.**"),
    }
    run = st.fit(made(), points, valid=points, metrics=metrics, **options(opt_hparams={"lr": 0.5}))
    row = run.history[-1]
    assert row["train_update"] == pytest.approx(0.5 * row["train_grad"], rel=1e-4)
    assert "valid_hidden" in row
    assert "valid_grad" not in row
    assert set(st.evaluate(run, points)) == {"loss", "hidden"}
    with pytest.raises(
        st.ConfigError,
        match=(
            r"metric 'grad' reads grads\.\*\*, which only training has; give it in train_metrics="
        ),
    ):
        st.fit(made(), points, valid=points, valid_metrics={"grad": metrics["grad"]}, **options())


def test_gradients_that_a_metric_sees_are_not_yet_clipped(points):
    "GradientClip acts when the step is entered, after the metric has looked."
    metric = {"grad": st.Metric(torch.linalg.vector_norm, x="grads.head.weight")}
    free = st.fit(
        made(), points, train_metrics=metric, **options(epochs=1, opt_hparams={"lr": 0.0})
    )
    clipped = st.fit(
        made(),
        points,
        train_metrics=metric,
        callbacks=st.GradientClip(1e-3),
        **options(epochs=1, opt_hparams={"lr": 0.0}),
    )
    assert free.history[-1]["train_grad"] == clipped.history[-1]["train_grad"] > 1e-3


def test_several_optimizers_add_what_is_theirs(points):
    "Each one's turn adds the gradients and updates of its own parameters; a metric sees them all."
    metric = {
        "n": st.Metric(lambda g, u: float(len(g) == len(u) == 6), g="grads.**", u="updates.**")
    }
    run = st.fit(
        made(),
        points,
        train_metrics=metric,
        **options(optimizer={"encoder": torch.optim.SGD, "head": torch.optim.SGD}),
    )
    assert run.history["train_n"] == [1.0, 1.0]


@pytest.mark.parametrize("precision", ["bf16", None])
def test_captures_with_policies_and_precision(points, precision):
    "In mixed precision, with a check of the gradients and batches that are skipped."
    inputs = points[0].clone()
    inputs[3] = float("nan")
    watch = Reader("interms.head", "grad_norms.head.weight")
    run = st.fit(
        made(),
        (inputs, points[1]),
        callbacks=watch,
        **options(precision=precision, non_finite="skip", check_gradients=True),
    )
    assert run.ctx.step == len(watch.seen) == 4
    assert watch.seen[0]["interms.head"].dtype == (torch.bfloat16 if precision else torch.float32)


def test_evaluate_and_predict_capture_too(points):
    "A callback that reads outputs of modules is served outside of a fit."
    model = made()
    evaluated, predicted = (
        Reader("interms.head", at="on_exit_valid_batch"),
        Reader("interms.head", at="on_exit_predict_batch"),
    )
    st.evaluate(model, points, loss=F.cross_entropy, callbacks=evaluated)
    logits = st.predict(model, points[0], callbacks=predicted)
    assert torch.equal(predicted.seen[0]["interms.head"], logits)
    assert torch.equal(evaluated.seen[0]["interms.head"], logits)
    assert hooks(model) == []


def test_guards_and_actions_read_too(points):
    "reads_of is the union of what callbacks, guards, actions, losses and metrics declare; a guard's key is captured."

    @st.guard(reads={"grad_norms.head.bias?"}, prompt=True)
    def flat(ctx):
        "flat"
        return False

    machine = st.Machine(st.supervised(stop=flat), [Reader("interms.head")])
    metric = st.Metric(torch.std, x="pred", mask="batch.mask")
    found = reads_of(machine, metric, st.Loss(F.mse_loss), object())
    assert {
        "grad_norms.head.bias?",
        "interms.head",
        "pred",
        "batch.mask",
        "target",
        "epoch",
    } <= found
    assert repr(capturing(machine, made()).callbacks[0]) == "Capture(interms: 1, grad_norms: 1)"
    assert capturing(st.Machine(st.supervised()), made()).callbacks == ()


def test_runs_that_capture_can_be_resumed(points):
    "Hooks are there again, and means of gradients and updates go on where they were, to the last bit."

    def build():
        metrics = {
            "grad": st.Metric(torch.linalg.vector_norm, x="grads.head.weight"),
            "hidden": st.Metric(torch.std, input="interms.encoder.second"),
        }
        return st.fit(
            made(), points, valid=points, metrics=metrics, start=False, **options(accumulate=2)
        )

    assert assert_resumable(build, anchors=5) == 5
    assert any(isinstance(callback, Capture) for callback in build().machine.callbacks)


class Siamese(nn.Module):
    """One encoder for two halves."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(2, 3), nn.Linear(3, 3)
        self.often = nn.Identity()

    def forward(self, points):
        for n in range(4):
            self.often(n)
        return self.head(self.encoder(points[:, :2]) - self.encoder(points[:, 2:]))


def test_a_module_that_is_called_twice_has_both_outputs(points):
    "In order, in each batch anew, also where a step replays the model; a module that is called once has its output."
    seen = []

    class Both(st.Callback):
        reads = ("interms.encoder", "interms.head", "interms.often", "input", "model")

        def on_exit_loss(self, ctx):
            first, second = ctx["interms.encoder"]
            weight, bias = ctx.model.encoder.parameters()
            assert torch.equal(first, F.linear(ctx.input[:, :2], weight, bias))
            assert torch.equal(second, F.linear(ctx.input[:, 2:], weight, bias))
            assert ctx["interms.encoder[1]"] is second
            assert ctx["interms.often"] == (0, 1, 2, 3)
            assert ctx["interms.head"].shape == (len(ctx.input), 3)
            seen.append("loss")

        def on_exit_step(self, ctx):
            seen.append(len(ctx["interms.encoder"]))

    class Replay(torch.optim.SGD):
        def step(self, closure):
            with torch.enable_grad():
                closure()
                closure()
            super().step()

    for optimizer, more in ((torch.optim.SGD, {}), (Replay, {"closure": True})):
        seen.clear()
        given = options(optimizer=optimizer, **more)
        st.fit(Siamese(), points, callbacks=Both(), **given)
        assert set(seen) == {"loss", 2}


def test_the_turns_of_several_optimizers_have_outputs_of_their_own(points):
    "Each turn calls the model again: two outputs, not four."
    counts = []

    class Count(st.Callback):
        reads = ("interms.encoder",)

        def on_exit_loss(self, ctx):
            counts.append(len(ctx["interms.encoder"]))

    given = options(optimizer={"encoder": torch.optim.SGD, "head": torch.optim.SGD})
    st.fit(Siamese(), points, callbacks=Count(), **given)
    assert set(counts) == {2}
