"""Child lifecycles: a state whose work is another lifecycle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import Factory, define
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.testing import assert_resumable, check, eventually, walk
from statetrain.trace import Tracing

S, T = st.State, st.Transition


@define(eq=False)
class Folds(st.Position):
    fold: int = 0
    step: int = 0
    scores: list[float] = Factory(list)
    weights: torch.Tensor = Factory(lambda: torch.zeros(3))
    raising: dict[int, BaseException] = st.not_saved(factory=dict)
    stopping: int = st.not_saved(0)


def next_fold(ctx: Folds) -> None:
    "begin a fold"
    ctx.fold += 1
    ctx.weights = torch.zeros(3)


def learn(ctx: Folds) -> None:
    "learn"
    ctx.step += 1
    if error := ctx.raising.pop(ctx.step, None):
        raise error
    if ctx.step == ctx.stopping:
        ctx.request_stop("enough")
    ctx.weights = ctx.weights + torch.rand(3) / ctx.fold


def score(ctx: Folds) -> None:
    "note the score"
    ctx.scores.append(ctx.weights.sum().item())


@st.guard(reads={"fold"})
def more_folds(ctx: Folds) -> bool:
    "more folds"
    return ctx.fold < 3


@st.guard(reads={"step", "fold"})
def steps_left(ctx: Folds) -> bool:
    "steps left"
    return ctx.step < 4 * ctx.fold


CHILD = st.Lifecycle(
    "training",
    [
        S("all"),
        S("head", within="all", anchor=True),
        S("learn", learn, within="all"),
        S("end", final=True),
        S("gave_up", final=True),
    ],
    [
        T("all", "head"),
        T("head", "end", st.stop_requested, st.actions.say_why),
        T("head", "learn", steps_left),
        T("head", "end"),
        T("learn", "head"),
        T("all", "end", event=st.StopFit, effect=st.actions.say_why),
        T("all", "gave_up", event=ZeroDivisionError),
        T("all", "end", event=KeyboardInterrupt),
    ],
)
OUTER = st.Lifecycle(
    "folds",
    [
        S("fit"),
        S("next_fold", within="fit", anchor=True, role="next_epoch"),
        S("fold", next_fold, within="fit"),
        S("score", score, within="fit"),
        S("end", final=True),
    ],
    [
        T("fit", "next_fold"),
        T("next_fold", "end", st.stop_requested),
        T("next_fold", "fold", more_folds),
        T("next_fold", "end"),
        T("fold", "score"),
        T("score", "next_fold"),
        T("fit", "end", event=KeyboardInterrupt),
    ],
)
LIFE = st.nest(OUTER, "fold", CHILD)


def run(life=LIFE, **fields: Any) -> tuple[Folds, list[str]]:
    tracing = Tracing()
    torch.manual_seed(0)
    ctx = st.Machine(life, [tracing]).run(Folds(**fields))
    return ctx, tracing.trace.states


def test_the_child_runs_to_its_end_in_the_scope_of_its_state():
    "The state's own action, then the child from its beginning to its end, then the state's own arrows."
    ctx, states = run()
    fold = ["fold", "fold_all", "fold_head", *["fold_learn", "fold_head"] * 4, "fold_end", "score"]
    assert states == ["fit", *["next_fold", *fold] * 3, "next_fold", "end"]
    assert LIFE.path("fold_learn") == ("fit", "fold", "fold_all", "fold_learn")
    assert LIFE.path("fold_end") == ("fit", "fold", "fold_end")
    assert ctx.outcome == st.Completed()
    assert (len(ctx.scores), ctx.step) == (3, 12)


def test_it_is_a_table_like_any_other():
    "Its text, its picture and its walks have the child's states; what holds is proved for all of it."
    assert "fold_learn" in str(LIFE)
    assert "fold_learn" in LIFE.svg()
    assert st.Lifecycle.from_dict(LIFE.to_dict(), registry=NAMES) == LIFE
    trace = walk(LIFE, {"more folds": [True], "steps left": [True]})
    assert trace.states.count("fold_learn") == 1
    check(LIFE, eventually("end"), events=False, failures=False)


NAMES = {
    f"{thing.__module__}:{thing.__qualname__}": thing for thing in (next_fold, learn, score)
} | {f"{one.function.__module__}:{one.function.__name__}": one for one in (more_folds, steps_left)}


def test_a_run_is_resumed_within_a_child():
    "At every anchor of both, to the last bit."
    cut = assert_resumable(lambda: st.run(LIFE, Folds(), start=False), anchors=None)
    assert cut == 4 + 3 * 5


def test_what_ends_the_child_and_what_the_run():
    "An event that the child takes ends the fold; a request to stop ends both; an interrupt is the outer one's."
    ctx, _ = run(raising={2: st.StopFit("this fold")})
    assert (ctx.outcome, ctx.fold, len(ctx.scores)) == (st.Completed(), 3, 3)
    ctx, states = run(stopping=6)
    assert (ctx.outcome, ctx.fold, ctx.step) == (st.Stopped(0, "enough"), 2, 6)
    assert states[-4:] == ["fold_end", "score", "next_fold", "end"]
    ctx, states = run(raising={2: KeyboardInterrupt()})
    assert ctx.outcome == st.Interrupted(0, "KeyboardInterrupt")
    assert states[-2:] == ["fold_learn", "end"]


def test_a_final_state_of_the_child_may_lead_elsewhere():
    "A fold that gave up has no score."
    life = st.nest(OUTER, "fold", CHILD, prefix="cv_", leads={"gave_up": "next_fold"})
    ctx, states = run(life, raising={6: ZeroDivisionError()})
    assert len(ctx.scores) == 2
    assert states[states.index("cv_gave_up") + 1] == "next_fold"


def test_children_within_children():
    "A child may have one itself."
    inner = st.Lifecycle("inner", [S("work"), S("end", final=True)], [T("work", "end")])
    life = st.nest(OUTER, "fold", st.nest(CHILD.replace("learn", action=learn), "learn", inner))
    _, states = run(life)
    assert states.count("fold_learn_work") == 12


@pytest.mark.parametrize(
    ("name", "leads", "words"),
    [
        ("fit", {}, r"'fit' is none; insert a state"),
        ("end", {}, r"'end' is none"),
        ("flod", {}, r"no state 'flod'; did you mean 'fold'"),
        (
            "fold",
            {"gaveup": "score"},
            r"training has no final state 'gaveup'; did you mean 'gave_up'",
        ),
    ],
)
def test_what_cannot_be_nested(name, leads, words):
    "The error says what is wrong."
    with pytest.raises(st.LifecycleError, match=words):
        st.nest(OUTER, name, CHILD, leads=leads)


def raise_rate(ctx):
    "train for two more epochs, from the first rate"
    ctx.max_epochs = ctx.epoch + 2
    ctx.opt.param_groups[0]["lr"] = 0.1


def test_the_standard_lifecycle_as_a_child():
    "Restarts: each of three is a training of its own, and the run is that of six epochs by hand."
    outer = st.Lifecycle(
        "restarts",
        [S("next_restart"), S("restart", raise_rate), S("end", final=True)],
        [
            T(
                "next_restart",
                "restart",
                st.guard(lambda ctx: ctx.epoch < 6, reads={"epoch"}).named("more restarts"),
            ),
            T("next_restart", "end"),
            T("restart", "next_restart"),
        ],
    )
    life = st.nest(outer, "restart", st.supervised(validate=None))
    x = torch.arange(8.0)[:, None] / 8

    def fit(**options):
        torch.manual_seed(0)
        return st.fit(
            nn.Linear(1, 1), (x, 2 * x), loss=F.mse_loss, optimizer=torch.optim.SGD,
            opt_hparams={"lr": 0.1}, dataloader_options={"batch_size": 4}, seed=0, epochs=6, **options,
        )  # fmt: skip

    run, plain = fit(lifecycle=life), fit()
    assert (run.ctx.epoch, run.ctx.step) == (6, 12)
    assert torch.equal(run.model.weight, plain.model.weight)
    assert run.history["train_loss"] == plain.history["train_loss"]


def test_what_is_no_lifecycle_cannot_be_nested():
    "A function is the state's action."
    with pytest.raises(
        st.LifecycleError, match=r"the child of 'fold' is a Lifecycle, got <function"
    ):
        st.nest(OUTER, "fold", lambda ctx: None)
