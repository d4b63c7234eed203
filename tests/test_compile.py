"""`compile=`: the model is compiled, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch.nn import functional as F

import statetrain as st

# Traced by dynamo and run as it is: what is compiled then is equal to the last bit
EAGER = {"backend": "eager"}


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 2,
        "device": "cpu",
        "dataloader_options": {"batch_size": 8, "shuffle": False},
        **more,
    }


def linear(width=3):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, width))


@pytest.fixture(autouse=True)
def fresh():
    "Nothing that another test compiled is looked up."
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_run_gives_what_a_plain_one_gives(points, backend):
    "Weights and rows of a compiled run are those of a plain one, short batches and validation included; the model given is trained."
    plain, model = linear(), linear()
    expected = st.fit(plain, points, valid=points, **options())
    run = st.fit(model, points, valid=points, compile={"backend": backend}, **options())
    assert run.model is model
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    )
    assert run.history["valid_loss"] == pytest.approx(expected.history["valid_loss"], abs=1e-6)


def test_the_model_is_run_by_what_torch_compiled(points):
    "Training, evaluate and predict all call what the backend returned, for what it was given."
    calls = []

    def backend(graph, _inputs):
        def called(*args):
            calls.append(len(args))
            return graph.forward(*args)

        return called

    run = st.fit(linear(), points, compile={"backend": backend}, **options(epochs=1))
    trained = len(calls)
    run.evaluate(points)
    evaluated = len(calls)
    preds = run.predict(points[0])
    assert trained == 3
    assert evaluated > trained
    assert len(calls) > evaluated
    assert torch.equal(preds, st.predict(run.model, points[0], device="cpu"))


@pytest.mark.parametrize("what", ["model", "step"])
def test_hooks_see_the_model_that_was_given(what, points):
    "Not one that torch wraps around it: its class, its attributes, the names of its weights."
    model, seen = linear(), []

    @st.on("exit_batch", "enter_valid")
    def look(ctx):
        seen.append(ctx.model is model)

    run = st.fit(
        model,
        points,
        valid=points,
        compile={"what": what, "backend": "eager"},
        callbacks=look,
        **options(epochs=2),
    )
    assert all(seen)
    assert len(seen) > 2
    assert run.model is model


def test_many_models_of_one_class_are_all_compiled(points):
    "Torch compiles a piece of code eight times at most; each run has its own copy of it."
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    for _ in range(10):
        graphs.clear()
        st.fit(linear(), points, compile={"backend": backend}, **options(epochs=1))
        assert graphs


class Everything(st.Callback):
    """Listens wherever a batch passes, and looks."""

    def __init__(self):
        self.seen = 0

    def on_exit_pred(self, ctx):
        self.seen += ctx.pred.shape[0]

    def on_exit_backward(self, ctx):
        assert all(p.grad is not None for p in ctx.params.values())


def test_callbacks_work_with_it(points, tmp_path):
    "Averages, clipping, the best weights, files of weights and checkpoints, gradients by name: all know the model's own names."
    looking, names = Everything(), {f"{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    ema = st.EMA(0.5, valid=True)
    callbacks = [
        ema,
        st.GradientClip(1.0),
        st.KeepBest("train_loss"),
        st.SaveWeights(tmp_path / "weights"),
        st.Checkpoint(tmp_path / "run"),
        looking,
    ]
    gauge = st.Metric(torch.linalg.vector_norm, x="grads.0.weight")
    run = st.fit(
        linear(),
        points,
        valid=points,
        compile=EAGER,
        callbacks=callbacks,
        train_metrics={"norm": gauge},
        seed=1,
        **options(),
    )
    assert looking.seen == 2 * len(points[0])
    assert set(run.ctx.state_dict()["weights"]) == names
    assert set(dict(ema.model.named_parameters())) == names
    assert not hasattr(ema.model, "_orig_mod")
    assert run.history["train_norm"][-1] > 0
    st.fit(
        linear(),
        points,
        valid=points,
        callbacks=callbacks[:-1],
        resume="last",
        seed=1,
        train_metrics={"norm": gauge},
        **options(epochs=3),
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [(EAGER, False), (False, EAGER), (EAGER, EAGER)],
    ids=["compiled then plain", "plain then compiled", "both"],
)
def test_a_run_is_continued_with_and_without_it(points, tmp_path, before, after):
    "A run that was cut goes on to the same weights whether it is compiled before, after or both: checkpoints have the model's own names."
    whole = st.fit(linear(), points, seed=1, **options(epochs=3))
    st.fit(
        linear(),
        points,
        seed=1,
        compile=before,
        callbacks=st.Checkpoint(tmp_path),
        **options(epochs=1),
    )
    run = st.fit(
        linear(),
        points,
        seed=1,
        compile=after,
        callbacks=st.Checkpoint(tmp_path),
        resume="last",
        **options(epochs=3),
    )
    assert bits(run.model) == bits(whole.model)


def test_a_run_that_rolls_back_keeps_plain_names(points):
    "The copy of the last good weights has the names that a plain run's has, and errors name weights by them."
    run = st.fit(
        linear(),
        points,
        compile=EAGER,
        non_finite=st.RollBack(every=st.Every(1, "steps")),
        **options(),
    )
    assert not any("_orig_mod" in name for name in run.ctx.kept["weights"]["tensors"])


def test_outputs_of_modules_are_refused_and_the_reader_is_named(points):
    "Who reads what a module returns within a compiled model is named before training: a callback, a loss, a metric."
    reader = st.Callback()
    reader.reads = ("interms.0",)
    with pytest.raises(
        st.ConfigError,
        match=r"'interms.0' is read by callback 'Callback', and the model is compiled",
    ):
        st.fit(linear(), points, compile=EAGER, callbacks=reader, **options())
    hidden = st.Loss(lambda hidden: hidden.mean(), hidden="interms.0")
    with pytest.raises(st.ConfigError, match="is read by the loss for 'opt'"):
        st.fit(linear(), points, compile=EAGER, **options(loss=hidden))
    with pytest.raises(st.ConfigError, match="is read by a metric of the set 'train'"):
        st.fit(
            linear(),
            points,
            compile=EAGER,
            metrics={"mean": st.Metric(torch.mean, input="interms.0")},
            **options(),
        )


def test_outputs_of_modules_can_be_looked_at_in_a_compiled_run(points):
    "An evaluation of a compiled run that reads them uses the model as it is."
    run = st.fit(linear(), points, compile=EAGER, **options(epochs=1))
    values = run.evaluate(points, metrics={"mean": st.Metric(torch.mean, input="interms.0")})
    assert values["mean"] == pytest.approx(run.model[0](points[0]).mean().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("inductor", "what must be one of 'model', 'step', 'auto', got 'inductor'"),
        ({"backend": "indctor"}, "are no options of torch.compile"),
        ({"modus": 1}, "are no options of torch.compile"),
    ],
)
def test_options_that_torch_does_not_know_are_refused(points, given, words):
    "A backend or an option that does not exist is an error before training."
    with pytest.raises(st.ConfigError, match=words):
        st.fit(linear(), points, compile=given, **options())
