"""`compile="step"`: the model, the loss, their gradients and the step as one compiled function."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from reference import bits
from torch.nn import functional as F

import statetrain as st
from statetrain.compute.compilable import can_trace
from statetrain.compute.compiling import CompiledUpdate
from statetrain.standard.fusing import fuse

pytestmark = pytest.mark.skipif(
    not can_trace(),
    reason="this torch's compiler does not trace gradients, so the model alone is compiled",
)

STEP = {"what": "step", "backend": "eager"}  # traced, and run as it is
AUTO = {"what": "auto", "backend": "eager"}
WHOLE = {"compile": STEP, "non_finite": "ignore"}


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.0625, "momentum": 0.5},
        "epochs": 2,
        "device": "cpu",
        "dataloader_options": {"batch_size": 8, "shuffle": False},
        **more,
    }


def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6, bias=False),
        torch.nn.BatchNorm1d(6),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(6, 3),
    )


def plain():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))


def accuracy(pred, target):
    return (pred.argmax(1) == target).float().mean()


def rows(run):
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in run.history.rows
    ]


def assert_close(run, expected, atol=2e-5):
    "Two runs have come to the same, as near as float32 goes."
    for (name, one), other in zip(
        run.model.state_dict().items(), expected.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(one, other, atol=atol), name
    for row, other in zip(rows(run), rows(expected), strict=True):
        assert row == pytest.approx(other, abs=1e-4)


@pytest.fixture(autouse=True)
def fresh():
    "Nothing that another test compiled is looked up."
    torch.compiler.reset()


class Counting:
    """A backend that counts what it compiles and how often that is called."""

    def __init__(self):
        self.graphs, self.calls = 0, 0

    def __call__(self, graph, _inputs):
        self.graphs += 1

        def called(*args):
            self.calls += 1
            return graph.forward(*args)

        return called


# ---------------------------------------------------------------- the same results


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 1},
        {"precision": "bf16", "valid": None},
        {"finite_check": "late", "non_finite": "raise", "valid": None},
    ],
    ids=str,
)
def test_it_is_the_same_to_the_last_bit_where_the_backend_allows(points, more):
    "Traced and run as it is, a run has the bits of one that is not compiled: batch norm, dropout, metrics, validation, a short last batch."
    given = options(non_finite="ignore", metrics=accuracy, valid=points) | more
    expected = st.fit(make(), points, **given)
    run = st.fit(make(), points, compile=STEP, **given)
    assert bits(run.model, run.ctx.opt) == bits(expected.model, expected.ctx.opt)
    assert rows(run) == rows(expected)
    assert isinstance(run.ctx.compiled_step, CompiledUpdate)


OPTIMIZERS = [
    (torch.optim.SGD, {"lr": 0.05}),
    (
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "fused": True},
    ),
    (torch.optim.AdamW, {"lr": 0.01}),
    (torch.optim.AdamW, {"lr": 0.01, "fused": True}),
    (torch.optim.Adam, {"lr": 0.01, "foreach": True, "amsgrad": True}),
    (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
]


@pytest.mark.parametrize(
    ("optimizer", "hparams"),
    OPTIMIZERS,
    ids=[f"{kind.__name__} {given}" for kind, given in OPTIMIZERS],
)
def test_optimizers_step_alike(points, optimizer, hparams):
    "Weights, and what the optimizer would save, are those of a run that is not compiled: rates are numbers, settings the user's."
    given = options(
        optimizer=optimizer,
        opt_hparams=hparams,
        non_finite="ignore",
        dataloader_options={"batch_size": 11, "shuffle": False},
    )
    expected = st.fit(plain(), points, **given)
    run = st.fit(
        plain(),
        points,
        compile={
            "what": "step",
            "backend": "aot_eager" if optimizer is torch.optim.AdamW else "eager",
        },
        **given,
    )
    assert_close(run, expected)
    own, other = run.ctx.opt.state_dict(), expected.ctx.opt.state_dict()
    assert own["param_groups"] == other["param_groups"]
    assert all(
        type(value) is type(group[name])
        for group, theirs in zip(own["param_groups"], other["param_groups"], strict=True)
        for name, value in theirs.items()
    )
    assert {i: set(state) for i, state in own["state"].items()} == {
        i: set(state) for i, state in other["state"].items()
    }
    assert all(
        torch.allclose(value, own["state"][i][name], atol=1e-4)
        for i, state in other["state"].items()
        for name, value in state.items()
        if value is not None
    )


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_that_are_not_finite_are_left_out(points, optimizer):
    "With finite_check='late', weights, buffers and states stay as they are where a loss is not finite, though the optimizer is no fused one."
    inputs = points[0].clone()
    inputs[12] = float("nan")
    given = options(
        optimizer=optimizer,
        opt_hparams={"lr": 0.0625},
        finite_check="late",
        non_finite="skip",
        epochs=3,
        dataloader_options={"batch_size": 11, "shuffle": False},
    )
    expected = st.fit(make(), (inputs, points[1]), **given)
    run = st.fit(make(), (inputs, points[1]), compile=STEP, **given)
    assert_close(run, expected)
    assert run.ctx.masked == expected.ctx.masked == 3
    assert run.ctx.first_masked == expected.ctx.first_masked == 2


class Parts(torch.nn.Module):
    """Takes two inputs by name, and returns a dict."""

    def __init__(self):
        super().__init__()
        self.one, self.unused = torch.nn.Linear(4, 3), torch.nn.Linear(2, 2)

    def forward(self, x, scale):
        return {"logits": self.one(x) * scale, "more": [x]}


def test_batches_and_outputs_of_any_structure(points):
    "Inputs by name, a part of the output by key, a weight without a gradient: as in a run that is not compiled."
    data = [
        {"x": x, "s": torch.full((len(x), 1), 0.5), "y": y}
        for x, y in zip(points[0].split(8), points[1].split(8), strict=True)
    ]
    given = options(
        input={"x": "x", "scale": "s"},
        target="y",
        pred="logits",
        non_finite="ignore",
        opt_hparams={"lr": 0.0625, "momentum": 0.5, "weight_decay": 0.5},
    )
    del given["dataloader_options"]
    models = []
    for more in ({}, {"compile": STEP}):
        torch.manual_seed(0)
        models.append(st.fit(Parts(), data, **given, **more).model)
    assert bits(models[0]) == bits(models[1])


class Keyed(Parts):
    """The same with a scale of another shape."""

    def forward(self, x, scale):
        return {"logits": super().forward(x, scale[:, None])["logits"], "more": [self.one(x)]}


def test_losses_by_keys(points):
    "Several losses that read the batch and parts of the output, with weights: the same bits, and a column for each."
    data = [
        {"x": x, "y": y, "name": "a batch"}
        for x, y in zip(points[0].split(11), points[1].split(11), strict=True)
    ]
    losses = {
        "hard": st.Loss(F.cross_entropy, pred="pred.logits", target="batch.y"),
        "small": st.Loss(lambda x: x.square().mean(), x="pred.more[0]", weight=0.5),
    }
    for loss in (st.Losses(**losses), losses["hard"]):
        given = options(input={"x": "x", "scale": "y"}, loss=loss, non_finite="ignore")
        del given["dataloader_options"]
        runs = []
        for more in ({}, {"compile": STEP}):
            torch.manual_seed(0)
            runs.append(st.fit(Keyed(), data, **given, **more))
        assert bits(runs[0].model) == bits(runs[1].model)
        assert rows(runs[0]) == rows(runs[1])
        assert ("train_loss_small" in runs[1].history[-1]) == isinstance(loss, st.Losses)


# ---------------------------------------------------------------- how often it is compiled


class Changing(st.Callback):
    """Changes the learning rate in each step."""

    writes = ("optimizers",)

    def on_enter_batch(self, ctx):
        for group in ctx.opt.param_groups:
            group["lr"] = 2.0 ** -(4 + ctx.step % 5)


@pytest.mark.parametrize(
    "callback",
    [
        Changing,
        lambda: st.LRScheduler(torch.optim.lr_scheduler.StepLR, per="step", step_size=1, gamma=0.5),
    ],
)
def test_learning_rates_are_no_reason_to_compile_anew(points, callback):
    "With another rate in each step there is one graph for whole batches and one for short ones, and the results are the same."
    backend = Counting()
    expected = st.fit(
        plain(), points, callbacks=callback(), **options(epochs=5, non_finite="ignore")
    )
    run = st.fit(
        plain(),
        points,
        callbacks=callback(),
        compile={"what": "step", "backend": backend},
        **options(epochs=5, non_finite="ignore"),
    )
    assert backend.graphs == 2
    assert backend.calls == run.ctx.step - 1 == 14  # the first step is made as ever
    assert bits(run.model) == bits(expected.model)
    assert rows(run) == rows(expected)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_momenta_that_change_are_compiled_once_more(points, optimizer):
    "A schedule that cycles the momentum as well gives what it gives without, and not a graph for each value."
    backend, cycle = (
        Counting(),
        lambda: st.LRScheduler(
            torch.optim.lr_scheduler.OneCycleLR, per="step", max_lr=0.1, total_steps=20
        ),
    )
    given = options(
        epochs=4,
        non_finite="ignore",
        optimizer=optimizer,
        opt_hparams={"lr": 0.01, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {})},
    )
    expected = st.fit(plain(), points, callbacks=cycle(), **given)
    run = st.fit(
        plain(), points, callbacks=cycle(), compile={"what": "step", "backend": backend}, **given
    )
    assert backend.graphs <= 4
    assert_close(run, expected)


class Flipping(st.Callback):
    """Changes a setting that torch compiles for."""

    writes = ("optimizers",)

    def on_enter_batch(self, ctx):
        ctx.opt.param_groups[0]["nesterov"] = ctx.step % 3 == 2


def test_what_changes_too_often_is_trained_on_as_ever(points, caplog):
    "When torch has compiled as often as it may, batches of yet another kind are trained on without, and one warning says so."
    given = options(epochs=3, non_finite="ignore")
    expected = st.fit(plain(), points, callbacks=Flipping(), **given)
    with (
        caplog.at_level(logging.WARNING, "statetrain"),
        torch._dynamo.config.patch(recompile_limit=1),
    ):
        run = st.fit(plain(), points, callbacks=Flipping(), compile=STEP, **given)
    assert bits(run.model) == bits(expected.model)
    assert [record.name for record in caplog.records].count("statetrain") == 1


def test_runs_do_not_use_up_each_others_compilations(points):
    "Torch keeps what it compiles with the code; each run has its own, so that the third is compiled as the first."
    backend = Counting()
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(3):
            st.fit(
                plain(),
                points,
                compile={"what": "step", "backend": backend},
                **options(epochs=1, non_finite="ignore"),
            )
    assert backend.calls == 3 * 2


# ---------------------------------------------------------------- continued


@pytest.mark.parametrize(
    ("before", "after"),
    [(STEP, STEP), (STEP, False), (False, STEP)],
    ids=["both", "compiled then not", "not then compiled"],
)
def test_a_run_is_continued_with_and_without_it(points, tmp_path, before, after):
    "A run that is cut goes on to the bits of one that was not, whether it is compiled before, after or both."
    given = options(non_finite="ignore", seed=1, dataloader_options={"batch_size": 11})
    whole = st.fit(make(), points, compile=STEP, **given | {"epochs": 3})
    st.fit(
        make(), points, compile=before, callbacks=st.Checkpoint(tmp_path), **given | {"epochs": 1}
    )
    run = st.fit(
        make(),
        points,
        compile=after,
        callbacks=st.Checkpoint(tmp_path),
        resume="last",
        allow_changes=[] if before == after else "lifecycle",
        **given | {"epochs": 3},
    )
    assert run.ctx.step == 6
    assert bits(run.model, run.ctx.opt) == bits(whole.model, whole.ctx.opt)


def test_a_run_goes_back_and_on(points, tmp_path):
    "Put back to a checkpoint in the same process, with other tensors for the optimizer's states, it comes to the same once more."
    run = st.fit(
        make(),
        points,
        seed=1,
        callbacks=st.Checkpoint(tmp_path, st.Every(2, "epochs")),
        **WHOLE | options(epochs=3),
    )
    first = bits(run.model, run.ctx.opt)
    run.resume()
    assert run.ctx.step == 9
    assert bits(run.model, run.ctx.opt) == first


# ---------------------------------------------------------------- the picture


def test_the_picture_says_so(points):
    "The state's label ends with what is done to it, and the table is otherwise the same: its fingerprint too."
    run = st.fit(plain(), points, **WHOLE | options(epochs=0))
    assert run.lifecycle.state("update").action.label.endswith(
        "update the weights, count the step, compiled"
    )
    assert "compiled" in str(run.lifecycle)
    apart = st.fit(plain(), points, edits=[fuse], non_finite="ignore", **options(epochs=0))
    assert run.lifecycle.fingerprint == apart.lifecycle.fingerprint
    assert (
        st.fit(plain(), points, compile={"backend": "eager"}, **options(epochs=0)).ctx.compiled_step
        is None
    )


def test_hooks_around_it_see_what_they_see_without(points):
    "Prediction, loss and gradients of the batch are there when the step has been made; debug mode agrees."
    seen = []

    class Looking(st.Callback):
        reads = ("pred", "loss_value", "model")

        def on_exit_step(self, ctx):
            seen.append(
                (
                    ctx.pred.sum().item(),
                    ctx.pred.requires_grad,
                    ctx.loss_value,
                    next(ctx.model.parameters()).grad.sum().item(),
                )
            )

    for more in ({}, {"compile": STEP, "debug": True}):
        torch.manual_seed(0)
        st.fit(plain(), points, callbacks=Looking(), **options(non_finite="ignore", **more))
    half = len(seen) // 2
    for one, other in zip(seen[1:half], seen[half + 1 :], strict=True):
        assert one[0] == other[0]
        assert one[2:] == other[2:]
    assert not seen[-1][1]


# ---------------------------------------------------------------- what is refused


def hooked(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(print)
    return optimizer


def watched(model):
    next(model.parameters()).register_hook(lambda gradient: gradient * 2)
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"loss": st.Loss(F.cross_entropy, weight=lambda ctx: 1.0)},
            "has the weight .*, which may be another one in each batch; use compile='model'",
        ),
        (
            {"loss": st.Losses(a=st.Loss(F.mse_loss, mask="target"))},
            "the loss for 'opt' has a mask or weights of samples",
        ),
        (
            {"loss": st.Loss(lambda pred, step: pred.mean() * step, pred="pred", step="step")},
            "reads 'step', which is more than the batch and the prediction",
        ),
        (
            {"optimizer": {"0": torch.optim.SGD, "2": torch.optim.SGD}},
            "there are 2 optimizers that take turns",
        ),
        (
            {"optimizer": torch.optim.LBFGS, "opt_hparams": {}},
            "'replay' is more than the model",
        ),
        (
            {"optimizer": torch.optim.Adafactor, "opt_hparams": {}},
            "torch does not compile the step of Adafactor",
        ),
        ({"opt_hparams": {"lr": 0.1, "differentiable": True}}, "made with differentiable=True"),
        (
            {"optimizer": hooked, "opt_hparams": None},
            (
                "has hooks around its step, which would not be called; write a callback with"
                " on_exit_step"
            ),
        ),
        (
            {"optimizer": watched, "opt_hparams": None},
            "a weight of optimizer 'opt' has a hook on its gradient",
        ),
    ],
    ids=[
        "weight",
        "mask",
        "beyond",
        "two",
        "closure",
        "Adafactor",
        "differentiable",
        "hooks",
        "gradient",
    ],
)
def test_what_cannot_be_compiled_is_refused(points, more, words):
    "What torch is known not to compile, or would leave out, is an error before training that says what to do; 'auto' leaves the states apart."
    model = plain()
    if more.get("opt_hparams", 1) is None:
        more = {**more, "optimizer": more["optimizer"](model)}
    with pytest.raises(
        st.ConfigError,
        match=f"compile='step' compiles the whole step as one function, but .*{words}",
    ):
        st.fit(model, points, **WHOLE | options(**more))
    if "another one in each batch" in words:
        run = st.fit(model, points, **WHOLE | options(**more, epochs=1) | {"compile": AUTO})
        assert "backward" in run.lifecycle.names


class Broken(torch.nn.Module):
    """Does what the compiler cannot follow."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        torch._dynamo.graph_break()
        return self.layer(x)


def test_a_model_in_several_pieces_says_what_to_do(points):
    "What torch says of it comes out as it is, with a note."
    with pytest.raises(torch._dynamo.exc.Unsupported) as raised:
        st.fit(Broken(), points, **WHOLE | options())
    assert any("use compile='model' for the model alone" in note for note in raised.value.__notes__)


class Turning(torch.nn.Module):
    """Uses another layer for short batches."""

    def __init__(self):
        super().__init__()
        self.whole, self.short = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.whole(x) if len(x) == 8 else self.short(x)


def test_weights_that_are_used_at_times_are_refused(points):
    "A weight that has a gradient in some batches only would not be trained; that is an error when it is seen."
    with pytest.raises(
        torch._dynamo.exc.TorchDynamoException,
        match="other weights have gradients than in the first step",
    ):
        st.fit(Turning(), points, **WHOLE | options())


# ---------------------------------------------------------------- inductor


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))),
    reason="inductor needs a C++ compiler on the CPU, and there is none",
)
def test_inductor_compiles_it(points):
    "With torch's own backend, a run comes to the same as one that is not compiled, and its model has the names that it had."
    given = options(
        non_finite="ignore",
        optimizer=torch.optim.AdamW,
        opt_hparams={"lr": 0.01},
        epochs=3,
        metrics=accuracy,
        dataloader_options={"batch_size": 11},
    )
    expected = st.fit(plain(), points, **given, seed=1)
    run = st.fit(plain(), points, compile="step", **given, seed=1)
    assert_close(run, expected)
    assert list(run.model.state_dict()) == list(expected.model.state_dict())


# ---------------------------------------------------------------- what changes during a run


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def unfreeze(ctx, model):
    model[0].requires_grad_(True)


def freeze(ctx, model):
    model[2].requires_grad_(False)


def add(ctx, model):
    ctx.opt.add_param_group(
        {"params": [torch.nn.Parameter(torch.ones(2), requires_grad=False)], "lr": 0.5}
    )


@pytest.mark.parametrize("change", [unfreeze, freeze, add])
@pytest.mark.parametrize("size", [8, 64])
def test_weights_may_be_others_from_some_batch_on(change, size, points):
    "Weights that are unfrozen, frozen or added in the second epoch are trained as without, also where an epoch is one batch."
    ends = []
    for more in ({"non_finite": "ignore"}, WHOLE):
        model = net()
        if change is unfreeze:
            model[0].requires_grad_(False)

        @st.on("enter_epoch")
        def changing(ctx, model=model):
            if ctx.epoch == 2:
                change(ctx, model)

        optimizer = torch.optim.SGD(model.parameters(), lr=0.0625)
        st.fit(
            model,
            points,
            loss=F.cross_entropy,
            optimizer=optimizer,
            epochs=4,
            device="cpu",
            callbacks=changing,
            **more,
            dataloader_options={"batch_size": size, "shuffle": False},
        )
        ends.append(bits(model, optimizer))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("bad", [8, 16])
def test_a_first_step_that_is_left_out_is_made_as_ever_again(bad, points):
    "States begin with the first step that is made; until then nothing is compiled, and no NaN gets into the weights."
    inputs = points[0].clone()
    inputs[:bad] = float("nan")
    model = net()
    late = {"compile": STEP, "finite_check": "late", "non_finite": "skip"}
    run = st.fit(
        model,
        (inputs, points[1]),
        **{**options(**late), "optimizer": torch.optim.Adam, "opt_hparams": {"lr": 0.01}},
    )
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert run.ctx.masked == 2 * bad // 8


class Counted(torch.optim.SGD):
    """An optimizer whose step does what a compiled one would leave out."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)


def test_an_optimizer_of_ones_own_is_not_compiled(points):
    "It is refused by name, and with compile='auto' the states stay apart, so that its step is called."
    with pytest.raises(st.ConfigError, match="Counted is a custom optimizer"):
        st.fit(net(), points, **{**options(**WHOLE), "optimizer": Counted})
    run = st.fit(net(), points, **{**options(**WHOLE), "optimizer": Counted, "compile": AUTO})
    assert "backward" in run.lifecycle.names
    assert run.ctx.opt.steps == run.ctx.step


@pytest.mark.parametrize("step", [0, 4])
def test_hooks_of_an_optimizer_that_come_late_are_refused_too(step, points):
    "One that a callback registers is an error at the next batch, not a hook that is never called, whether the step is compiled by then or not."

    @st.on("exit_batch")
    def register(ctx):
        if ctx.step == max(step, 1):
            ctx.opt.register_step_post_hook(lambda *arguments: None)

    with pytest.raises(st.ConfigError, match="hooks around its step"):
        st.fit(net(), points, callbacks=register, **options(**WHOLE))


class Printing(torch.nn.Linear):
    """A model that cannot be traced in one piece."""

    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)


def test_auto_trains_part_by_part_what_cannot_be_compiled(points, caplog):
    "A model that torch cannot trace whole is trained on with a warning, where compile='step' is its error."
    ends = []
    for more in ({"non_finite": "ignore"}, {**WHOLE, "compile": AUTO}):
        torch.manual_seed(0)
        model = Printing(4, 3)
        run = st.fit(model, points, **options(**more))
        ends.append(bits(model, run.ctx.opt))
    assert ends[0] == ends[1]
    assert "the model is compiled alone" in caplog.text


# ---------------------------------------------------------------- said by compile= alone


@pytest.mark.parametrize("what", ["step", "auto"])
def test_compile_says_that_the_whole_step_is_compiled(what, points):
    "The table is fused, what is not finite is found late, and results are those of the run without."
    run = st.fit(plain(), points, compile={"what": what, "backend": "eager"}, **options())
    assert run.lifecycle.state("update").action.compiled
    assert run.lifecycle.by_role("report")
    assert_close(run, st.fit(plain(), points, finite_check="late", **options()))


def test_auto_compiles_the_model_where_something_is_in_the_way(points):
    "A callback that listens between the states, a computation of your own: the check stays at once."

    @st.on("enter_backward")
    def listen(ctx):
        pass

    run = st.fit(
        plain(), points, compile={"what": "auto", "backend": "eager"}, callbacks=listen, **options()
    )
    assert "update" not in run.lifecycle.names
    assert not run.lifecycle.by_role("report")


def test_step_says_what_is_in_the_way(points):
    "What was asked for is not left out in silence."
    with pytest.raises(st.ConfigError, match="finite_check='late' and spike exclude each other"):
        st.fit(plain(), points, compile="step", spike=st.Spike(4), **options())


@pytest.mark.parametrize("given", ["stpe", {"what": "all"}, 3])
def test_what_is_compiled_is_checked(given, points):
    "Anything else is refused with what there is."
    with pytest.raises(st.ConfigError, match="'step'"):
        st.fit(plain(), points, compile=given, **options())
