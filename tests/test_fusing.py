"""`fused=`: pred, loss, backward and step as one state, where nobody reads in between."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from reference import bits
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import statetrain as st
from statetrain.callback import hooks_of
from statetrain.compute import compiling
from statetrain.compute.cuda_graph import CudaGraph, graph_for
from statetrain.standard import actions
from statetrain.standard.fusing import fuse, in_the_way


def accuracy(pred, target):
    return (pred.argmax(1) == target).float().mean()


def options(**more):
    return {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.Adam,
        "opt_hparams": {"lr": 0.01},
        "epochs": 2,
        "device": "cpu",
        "metrics": accuracy,
        "dataloader_options": {"batch_size": 8},
        "seed": 1,
        **more,
    }


def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6),
        torch.nn.BatchNorm1d(6),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(6, 3),
    )


def rows(run):
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in run.history.rows
    ]


def assert_same(one, other):
    "Two runs have come to the same, to the last bit."
    assert bits(one.model) == bits(other.model)
    assert rows(one) == rows(other)


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    "more",
    [
        {"finite_check": "late"},
        {"non_finite": "ignore"},
        {"finite_check": "late", "non_finite": "skip", "buffers": True, "seeded": True},
        {"non_finite": "ignore", "precision": "bf16"},
    ],
)
def test_the_table_has_one_state_in_their_place(more):
    "The four states are one, whose label says what all of them do; everything else stays as it was."
    plain, life = st.supervised(**more), st.supervised(fused=True, **more)
    assert set(plain.names) - set(life.names) == {"pred", "loss", "backward", "step"}
    assert set(life.names) - set(plain.names) == {"update"}
    assert life.state("update").action.stands_for == ("pred", "loss", "backward", "step")
    assert "update  " in str(life)
    assert life == fuse(plain)
    inner = [
        arrow
        for arrow in plain.transitions
        if {arrow.source, arrow.dest} <= {"pred", "loss", "backward", "step"}
    ]
    assert len(life.transitions) == len(plain.transitions) - len(inner)


def test_it_can_be_drawn_written_down_and_read_again():
    "A fused lifecycle has a picture with the one state, a fingerprint, and is the same after being written down."
    life = st.supervised(fused=True, finite_check="late")
    assert st.Lifecycle.from_dict(life.to_dict()) == life
    assert life.fingerprint != st.supervised(finite_check="late").fingerprint
    assert "update" in life.mermaid()
    assert "backward" not in life.mermaid().replace("backward;", "")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {},
            (
                r"loss -> failed \[loss not finite\] / raise NonFiniteLoss is decided between"
                r" 'pred' and 'step'; finite_check='late' lets"
            ),
        ),
        ({"non_finite": "skip"}, r"loss -> next_batch \[loss not finite\]"),
        (
            {"non_finite": "ignore", "accumulate": 2},
            r"backward -> next_batch \[accumulating\] is decided",
        ),
        (
            {"non_finite": "ignore", "precision": "fp16"},
            r"unscale -> next_batch \[gradients overflowed\]",
        ),
        ({"non_finite": "ignore", "compute": lambda ctx: None}, "it has no state 'pred'"),
    ],
)
def test_what_is_decided_in_between_is_named(more, words):
    "A guard between the states, or other states than these, is an error that names it; 'auto' leaves such a table as it is."
    with pytest.raises(st.ConfigError, match=words):
        st.supervised(fused=True, **more)
    assert st.supervised(fused="auto", **more) == st.supervised(**more)


def test_own_tables_are_fused_where_they_can_be():
    "A state of one's own between the four becomes part; an event taken there, an arrow into the middle or a scope is in the way."
    life = st.supervised(non_finite="ignore")
    own = life.insert(st.State("clip", lambda ctx: None), between=("backward", "step"))
    assert fuse(own).state("update").action.stands_for == (
        "pred",
        "loss",
        "backward",
        "clip",
        "step",
    )
    assert "may be taken between" in in_the_way(
        life.add(st.Transition("loss", "next_batch", event=st.SkipBatch))
    )
    assert "leads into the middle" in in_the_way(
        life.add(st.Transition("batch", "loss", st.Every(2, "steps")))
    )
    assert "is a scope or an anchor" in in_the_way(life.replace("loss", anchor=True))


def test_the_word_is_checked():
    "Anything but True, False and 'auto' is refused."
    for make_it in (
        lambda: st.supervised(fused="atuo"),
        lambda: st.fit(
            make(), (torch.zeros(8, 4), torch.zeros(8).long()), fused="atuo", **options()
        ),
    ):
        with pytest.raises(
            st.ConfigError,
            match="fused must be one of True, False, 'auto', got 'atuo'; did you mean 'auto'",
        ):
            make_it()


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize(
    "more",
    [
        {"finite_check": "late"},
        {"finite_check": "late", "non_finite": "skip"},
        {"non_finite": "ignore"},
        {"non_finite": "ignore", "precision": "bf16"},
    ],
    ids=str,
)
def test_a_fused_run_is_the_same_to_the_last_bit(points, more):
    "Weights, buffers and rows are those of the run whose states are apart, with dropout, batch norm, metrics and validation; debug mode agrees."
    apart = st.fit(make(), points, valid=points, **options(**more))
    assert_same(
        st.fit(make(), points, valid=points, fused=True, debug=True, **options(**more)), apart
    )


def test_a_fused_run_leaves_out_the_same_steps(points):
    "A batch whose loss is not finite is left out alike, and reported alike."
    inputs = points[0].clone()
    inputs[3] = float("nan")
    runs = [
        st.fit(
            make(),
            (inputs, points[1]),
            fused=fused,
            **options(finite_check="late", non_finite="skip"),
        )
        for fused in (False, True)
    ]
    assert_same(*runs)
    assert runs[1].ctx.masked == 2


def test_several_optimizers_take_turns_in_it(points):
    "With two optimizers the state leads to itself, once for each."

    def parts():
        torch.manual_seed(0)
        model = torch.nn.Sequential()
        model.add_module("body", torch.nn.Linear(4, 6))
        model.add_module("head", torch.nn.Linear(6, 3))
        return model

    both = {"body": torch.optim.Adam, "head": torch.optim.SGD}
    runs = [
        st.fit(parts(), points, fused=fused, **options(optimizer=both, non_finite="ignore"))
        for fused in (False, True)
    ]
    assert_same(*runs)


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_schedules_of_torch_go_with_it(points, per):
    "LRScheduler changes the rates of a fused run as it does those of another, and its column says the same."
    given = {
        "callbacks": st.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, per=per, gamma=0.5),
        "non_finite": "ignore",
    }
    apart, fused = (
        st.fit(make(), points, fused=fused, **options(epochs=3, **given)) for fused in (False, True)
    )
    assert_same(fused, apart)
    assert fused.history["lr"] == pytest.approx(
        [0.01 * 0.5 ** (2 + 3 * i if per == "step" else i) for i in range(3)]
    )


class Around(st.Callback):
    """Listens where the fused states begin and where they end."""

    def __init__(self):
        self.seen = []

    def on_enter_pred(self, ctx):
        self.seen.append(("enter", ctx.pred is None, ctx.step))

    def on_exit_step(self, ctx):
        self.seen.append(("exit", ctx.pred is None, ctx.step))


def test_hooks_on_its_edges_are_called(points):
    "Who listens where the first state is entered and where the last one is left hears the fused one, and averages of weights are the same."
    heard, averages = [], []
    for fused in (False, True):
        around, ema = Around(), st.EMA(0.5)
        st.fit(make(), points, fused=fused, callbacks=[around, ema], **options(non_finite="ignore"))
        heard.append(around.seen)
        averages.append(bits(ema.model))
    assert heard[0] == heard[1]
    assert heard[0][:2] == [("enter", True, 0), ("exit", False, 1)]
    assert averages[0] == averages[1]


def test_a_phase_has_its_own_names():
    "Of two phases, one of them fused, each state is heard under its own phase's names."

    class Both(st.Callback):
        def on_exit_step(self, ctx):
            """The plain phase's."""

        def on_exit_pre_step(self, ctx):
            """The fused phase's."""

    life = st.supervised(fused=True, non_finite="ignore").prefixed("pre_").then(st.supervised())
    assert set(hooks_of(Both(), life)) == {"on_exit_step", "on_exit_pre_update"}


def test_a_listener_in_between_is_named(points):
    "With True, who listens or reads within is an error that says who and where; with 'auto', the states stay apart."
    gauge = st.Metric(torch.linalg.vector_norm, x="grads.0.weight")
    for more, words in (
        (
            {"callbacks": st.GradientClip(1.0)},
            (
                "Callback 'GradientClip' listens on 'on_enter_step', within the state 'update' into"
                " which pred, loss, backward, step are fused"
            ),
        ),
        (
            {"callbacks": st.Watch("exit_loss", loss="loss")},
            "Callback 'Watch' listens on 'on_exit_loss'",
        ),
        (
            {"train_metrics": {"norm": gauge}},
            "'grads.0.weight' is read by a metric of the set 'train'",
        ),
    ):
        with pytest.raises((st.ConfigError, st.CallbackError), match=words):
            st.fit(make(), points, fused=True, **options(non_finite="ignore", **more))
        run = st.fit(make(), points, fused="auto", **options(non_finite="ignore", epochs=1, **more))
        assert "update" not in run.lifecycle.names
    assert (
        "update"
        in st.fit(
            make(),
            points,
            fused="auto",
            callbacks=Around(),
            **options(non_finite="ignore", epochs=1),
        ).lifecycle.names
    )


def test_it_goes_with_compile_and_resume(points, tmp_path):
    "A fused and compiled run that is cut goes on to the weights of one that was not, nor fused, nor compiled."
    torch.compiler.reset()
    more = {"fused": True, "compile": {"backend": "eager"}, "finite_check": "late"}
    whole = st.fit(make(), points, **exact(epochs=3, finite_check="late"))
    st.fit(make(), points, callbacks=st.Checkpoint(tmp_path), **more, **exact(epochs=1))
    run = st.fit(
        make(), points, callbacks=st.Checkpoint(tmp_path), resume="last", **more, **exact(epochs=3)
    )
    assert bits(run.model) == bits(whole.model)


# ---------------------------------------------------------------- the graph, as far as the CPU goes


def again(function, _device, _generators):
    "In the place of a recording: what was recorded is called again, on the buffers that it was recorded with."
    return function


def exact(**more):
    "Options of runs whose rates are the same in float32, where the graph reads those that change, as in float64."
    return options(optimizer=torch.optim.SGD, opt_hparams={"lr": 0.0625, "momentum": 0.5}, **more)


def graphed(data, **more):
    "A run whose fused state is replayed, and what replayed it."
    run = st.fit(make(), data, fused=True, start=False, **exact(**more))
    run.ctx.graph = CudaGraph(torch.device("cpu"), record=again)
    return run.walk(), run.ctx.graph


@pytest.mark.parametrize(
    "more",
    [
        {"finite_check": "late"},
        {"finite_check": "late", "non_finite": "skip", "precision": "bf16"},
        {"non_finite": "ignore"},
    ],
    ids=str,
)
def test_a_replayed_run_is_the_same(points, more):
    "A run that is replayed from buffers gives the weights and rows of one that is not, short batches and validation included."
    expected = st.fit(make(), points, valid=points, **exact(epochs=4, **more))
    run, graph = graphed(points, valid=points, epochs=4, **more)
    assert_same(run, expected)
    assert run.ctx.step == expected.ctx.step == 12
    # Of 8 whole batches, three warmed up; the short ones are never replayed but once warm
    assert (graph.recordings, graph.replays) == (
        1,
        5,
    )


def test_masked_steps_are_counted_in_a_replayed_run(points):
    "A loss that is not finite in a batch that is replayed leaves the step out, and is reported."
    inputs = torch.cat([points[0]] * 2)[:40].clone()
    inputs[38] = float("nan")
    data = (inputs, torch.cat([points[1]] * 2)[:40])
    expected = st.fit(make(), data, **exact(finite_check="late", non_finite="skip"))
    run, graph = graphed(data, finite_check="late", non_finite="skip")
    assert run.ctx.masked == expected.ctx.masked == 2
    assert graph.replays == 7
    assert_same(run, expected)


def test_the_number_of_a_masked_step_is_known_in_the_graph(points):
    "Steps that were made aside, as those of short batches, count too: the first one masked is named rightly."
    inputs = torch.cat([points[0]] * 2)[:38].clone()
    target = torch.cat([points[1]] * 2)[:38]
    changes = [(x, y) for x, y in zip(inputs.split(8), target.split(8), strict=True)]

    def data():
        data.epoch += 1
        for i, (x, y) in enumerate(changes):
            yield (x * math.nan, y) if data.epoch == 3 and i in (1, 2) else (x, y)

    given = exact(finite_check="late", non_finite="skip", epochs=3)
    del given["dataloader_options"]
    runs = []
    for fused in (False, True):
        data.epoch = 0
        run = st.fit(make(), data, fused=fused, start=False, **{**given, "seed": None})
        run.ctx.graph = CudaGraph(torch.device("cpu"), record=again) if fused else None
        runs.append(run.walk())
    assert [(run.ctx.masked, run.ctx.first_masked) for run in runs] == [(2, 12)] * 2
    assert_same(*runs)
    assert runs[1].ctx.graph.replays == 9


class Outside(TorchDispatchMode):
    """Counts what is called of torch that was not recorded."""

    def __init__(self):
        super().__init__()
        self.count, self.replaying = 0, False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not self.replaying and "detach" not in str(function)
        return function(*args, **(kwargs or {}))

    def record(self, function, _device, _generators):
        def replay():
            self.replaying = True
            function()
            self.replaying = False

        return replay


@pytest.mark.parametrize("more", [{"finite_check": "late"}, {"non_finite": "ignore"}], ids=str)
def test_little_is_started_outside_of_the_graph(more):
    "For a batch of two tensors, two copies into the buffers, one of the loss, and its mean: what a small model gains is not lost again."
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    data = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(8)]
    # One line is enough
    fused_sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)  # noqa: E731
    run = st.fit(
        model,
        data,
        loss=F.cross_entropy,
        optimizer=fused_sgd,
        epochs=1,
        fused=True,
        start=False,
        device="cpu",
        **more,
    )
    outside = Outside()
    run.ctx.graph, run.ctx.on_host = CudaGraph(torch.device("cpu"), record=outside.record), False
    with run.steps() as steps:
        steps.until(lambda ctx: ctx.state == "next_batch" and ctx.iter == 6)
        with outside:
            steps.until(lambda ctx: ctx.state == "next_batch" and ctx.iter == 7)
    assert run.ctx.graph.replays == 4
    assert 0 < outside.count <= 6


class Changing(st.Callback):
    """Changes the learning rate in each step."""

    writes = ("optimizers",)

    def on_enter_batch(self, ctx):
        for group in ctx.opt.param_groups:
            group["lr"] = 2.0 ** -(4 + ctx.step % 3)


class Weighty(st.Callback):
    """Changes another setting once."""

    writes = ("optimizers",)

    def on_enter_batch(self, ctx):
        if ctx.step == 6:
            ctx.opt.param_groups[0]["weight_decay"] = 0.5


@pytest.mark.parametrize(("callback", "recordings"), [(Changing, 1), (Weighty, 2)])
def test_settings_that_change_are_heeded(points, callback, recordings):
    "A learning rate that changes is written to where the graph reads it; another setting makes it be recorded anew."
    data = (points[0][:16], points[1][:16])
    expected = st.fit(make(), data, callbacks=callback(), **exact(epochs=6, non_finite="ignore"))
    run, graph = graphed(data, callbacks=callback(), epochs=6, non_finite="ignore")
    assert graph.recordings == recordings
    assert graph.replays == 9
    assert_same(run, expected)
    assert all(isinstance(group["lr"], float) for group in run.ctx.opt.param_groups)


class Halving(st.Callback):
    """Halves the learning rate at the end of each epoch but the first."""

    writes = ("optimizers",)

    def on_exit_epoch(self, ctx):
        if ctx.epoch > 1:
            ctx.opt.param_groups[0]["lr"] /= 2


def test_a_rate_that_stays_is_recorded_as_it_is(points):
    "Then it need not be the same in float32; the first change makes it be recorded anew, with rates that are read, and no later one does."
    data = (points[0][:16], points[1][:16])
    given = options(
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1, "momentum": 0.9},
        epochs=6,
        non_finite="ignore",
    )
    assert torch.tensor(0.1).item() != 0.1
    expected = st.fit(make(), data, **given)
    run = st.fit(make(), data, fused=True, start=False, **given)
    run.ctx.graph = CudaGraph(torch.device("cpu"), record=again)
    assert_same(run.walk(), expected)
    assert (run.ctx.graph.recordings, run.ctx.graph.replays) == (1, 9)
    _, graph = graphed(data, callbacks=Halving(), epochs=6, non_finite="ignore")
    assert (graph.recordings, graph.replays) == (2, 9)


def test_shapes_are_not_counted_without_end(points):
    "Data whose batches all differ, so that nothing is ever recorded, leaves no more behind than a bounded count."
    data = [{"x": points[0][:2], "y": points[1][:2], "number": i} for i in range(1100)]
    given = options(non_finite="ignore", epochs=1, metrics=None)
    del given["dataloader_options"]
    run = st.fit(make(), data, fused=True, start=False, **given)
    run.ctx.graph = graph = CudaGraph(torch.device("cpu"), record=again)
    run.walk()
    assert graph.recordings == 0
    assert len(graph._seen) <= 1000


class Restoring(st.Callback):
    """Gives the optimizer other tensors for its states at the end of an epoch, as loading them does."""

    writes = ("optimizers",)

    def on_exit_epoch(self, ctx):
        ctx.opt.load_state_dict(copy.deepcopy(ctx.opt.state_dict()))


def test_states_that_lie_elsewhere_are_seen(points):
    "A graph that would write to tensors that nobody has any more is recorded anew when the training is opened again."
    data = (points[0][:16], points[1][:16])
    _, graph = graphed(data, callbacks=Restoring(), epochs=4, non_finite="ignore")
    assert graph.recordings == 3


def test_what_is_in_two_places_of_a_batch_is_one_in_the_buffers(points):
    "An autoencoder's input is its target, before and after it is copied; numbers that differ between batches are never replayed."
    data = [{"x": x, "scale": 2.0} for x in points[0][:16].split(4)]
    model = torch.nn.Linear(4, 4)
    given = options(input="x", target="x", loss=F.mse_loss, non_finite="ignore", metrics=None)
    del given["dataloader_options"]
    run = st.fit(model, data, fused=True, start=False, **given)
    run.ctx.graph = graph = CudaGraph(torch.device("cpu"), record=again, warm_up=1)
    run.walk()
    assert graph.replays == 7
    assert len(graph._recorded.statics) == 1


def test_batches_that_cannot_be_copied_are_refused(points):
    "A batch with something in it that is neither data nor a plain value is an error that says so."
    data = [{"x": points[0][:4], "y": points[1][:4], "id": object()}]
    given = options(non_finite="ignore")
    del given["dataloader_options"]
    run = st.fit(make(), data, fused=True, start=False, **given)
    run.ctx.graph = CudaGraph(torch.device("cpu"), record=again)
    with pytest.raises(st.ConfigError, match="a batch has a object in it, which cannot be copied"):
        run.walk()


CUDA = torch.device("cuda")


def adam(**more):
    return {"opt": torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], **more)}


def test_a_graph_is_chosen_on_cuda_alone():
    "Other devices call the parts one after the other, and so do lifecycles that are not fused."
    action = st.supervised(fused=True, non_finite="ignore").state("update").action
    assert graph_for(torch.device("cpu"), action, adam()) is None
    assert graph_for(torch.device("mps"), action, adam()) is None
    assert graph_for(CUDA, None, adam()) is None
    assert graph_for(CUDA, action, adam(capturable=True)) is not None


@pytest.mark.parametrize(
    ("life", "optimizers", "more", "words"),
    [
        (
            {"non_finite": "ignore"},
            adam(),
            {},
            r"make it with capturable=True: Adam\(..., capturable=True\)",
        ),
        (
            {"non_finite": "ignore"},
            {"opt": torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)},
            {},
            r"SGD\(..., fused=True\)",
        ),
        (
            {"finite_check": "late"},
            adam(capturable=True),
            {},
            r"Adam\(..., capturable=True, fused=True\)",
        ),
        (
            {"non_finite": "ignore"},
            adam(capturable=True),
            {"backward": print},
            "a backward of the accelerator's own may do what cannot be recorded",
        ),
        (
            {"non_finite": "ignore"},
            {**adam(capturable=True), "more": adam(capturable=True)["opt"]},
            {},
            "of one optimizer; there are 2",
        ),
        (
            {"non_finite": "ignore"},
            adam(capturable=True),
            {"options": {"mode": "reduce-overhead"}},
            "and so does compile=",
        ),
    ],
)
def test_what_cannot_be_recorded_is_refused(life, optimizers, more, words):
    "Optimizers that would wait for the host, several of them, and work of one's own are errors before training, with the remedy."
    action = st.supervised(fused=True, **life).state("update").action
    with pytest.raises(st.ConfigError, match=words):
        graph_for(CUDA, action, optimizers, **more)


def test_work_of_ones_own_is_not_recorded():
    "A state that was inserted may do anything, so it is named."

    def clip(ctx):
        "clip"

    life = fuse(
        st.supervised(non_finite="ignore").insert(
            st.State("clip", clip), between=("backward", "step")
        )
    )
    with pytest.raises(st.ConfigError, match="'clip' may do what cannot be recorded"):
        graph_for(CUDA, life.state("update").action, adam(capturable=True))
    assert actions.pred in compiling._KNOWN
