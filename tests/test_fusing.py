"""The edit `fuse`: pred, loss, backward and step as one state, where nothing reads in between."""

from __future__ import annotations

import pytest
import torch
from reference import bits
from torch.nn import functional as F

import statetrain as st
from statetrain.callback import hooks_of
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
    plain = st.supervised(**more)
    life = fuse(plain)
    assert set(plain.names) - set(life.names) == {"pred", "loss", "backward", "step"}
    assert set(life.names) - set(plain.names) == {"update"}
    assert life.state("update").action.stands_for == ("pred", "loss", "backward", "step")
    assert "update  " in str(life)
    inner = [
        arrow
        for arrow in plain.transitions
        if {arrow.source, arrow.dest} <= {"pred", "loss", "backward", "step"}
    ]
    assert len(life.transitions) == len(plain.transitions) - len(inner)


def test_it_can_be_drawn_written_down_and_read_again():
    "A fused lifecycle has a picture with the one state, a fingerprint, and is the same after being written down."
    life = fuse(st.supervised(finite_check="late"))
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
    "A guard between the states, or other states than these, is an error that names it."
    with pytest.raises(st.ConfigError, match=words):
        fuse(st.supervised(**more))


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
    precision = more.get("precision")
    more = {name: value for name, value in more.items() if name != "precision"}

    def edit(life):
        return fuse(life if precision is None else st.mixed_precision(life, precision))

    assert_same(
        st.fit(make(), points, valid=points, edits=[edit], debug=True, **options(**more)), apart
    )


def test_a_fused_run_leaves_out_the_same_steps(points):
    "A batch whose loss is not finite is left out alike, and reported alike."
    inputs = points[0].clone()
    inputs[3] = float("nan")
    runs = [
        st.fit(
            make(),
            (inputs, points[1]),
            edits=edits,
            **options(finite_check="late", non_finite="skip"),
        )
        for edits in ([], [fuse])
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
        st.fit(parts(), points, edits=edits, **options(optimizer=both, non_finite="ignore"))
        for edits in ([], [fuse])
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
        st.fit(make(), points, edits=edits, **options(epochs=3, **given)) for edits in ([], [fuse])
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
    for edits in ([], [fuse]):
        around, ema = Around(), st.EMA(0.5)
        st.fit(make(), points, edits=edits, callbacks=[around, ema], **options(non_finite="ignore"))
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

    life = fuse(st.supervised(non_finite="ignore")).prefixed("pre_").then(st.supervised())
    assert set(hooks_of(Both(), life)) == {"on_exit_step", "on_exit_pre_update"}


def test_a_listener_in_between_is_named(points):
    "What listens or reads within the fused states is an error that says what and where."
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
            st.fit(make(), points, edits=[fuse], **options(non_finite="ignore", **more))


def test_it_goes_with_compile_and_resume(points, tmp_path):
    "A fused run with a compiled model that is cut goes on to the weights of one without either."
    torch.compiler.reset()
    given = options(optimizer=torch.optim.SGD, opt_hparams={"lr": 0.0625, "momentum": 0.5})
    given |= {"finite_check": "late"}
    more = {"edits": [fuse], "compile": {"backend": "eager"}}
    whole = st.fit(make(), points, **given | {"epochs": 3})
    st.fit(make(), points, callbacks=st.Checkpoint(tmp_path), **more, **given | {"epochs": 1})
    run = st.fit(
        make(),
        points,
        callbacks=st.Checkpoint(tmp_path),
        resume="last",
        **more,
        **given | {"epochs": 3},
    )
    assert bits(run.model) == bits(whole.model)


def test_the_option_that_fused_is_gone(points):
    "`fit` has one way to make the step one function, and says so."
    with pytest.raises(TypeError, match='compile="step"'):
        st.fit(make(), points, fused=True, **options())


def test_a_phase_is_fused_by_its_roles():
    "States are found by what they are: a prefix changes names and nothing else; two phases are refused."
    life = st.supervised(validate=None, non_finite="ignore")
    assert fuse(life.prefixed("first_")) == fuse(life).prefixed("first_")
    callback = st.on("exit_step")(lambda ctx: None)
    assert set(hooks_of(callback, fuse(life.prefixed("first_")))) == {"on_exit_first_update"}
    both = life.prefixed("a_").then(life.prefixed("b_"))
    assert "'a_pred', 'b_pred'; fuse each phase" in in_the_way(both)
    assert in_the_way(life.without("loss")) == "it has no state 'loss'"
