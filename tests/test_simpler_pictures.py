"""Pictures with less in them, pictures of what an edit does, and what a run adds to them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from strategies import lifecycles
from torch.nn import functional as F

import statetrain as st
from statetrain.diagram import dot, mermaid, svg
from statetrain.diagram.layout import Layout
from statetrain.diagram.showing import picture
from statetrain.errors import ConfigError
from statetrain.trace import Moment, Trace

TEN = {"fit", "epoch", "train", "batch", "pred", "loss", "backward", "step", "valid", "end"}


def ends(shown):
    """The arrows of a picture as pairs, dots as the scopes that they begin."""
    return {
        (arrow.tail.removesuffix(".start"), arrow.head.removesuffix(".start"))
        for arrow in shown.arrows
    }


def test_the_outline_has_the_ten_states_that_everyone_knows():
    """And the ways between them: the loop of batches, validation, the next epoch, the end."""
    shown = picture(st.supervised(), detail="outline")
    assert set(shown.order) == TEN
    assert {
        ("step", "batch"),
        ("step", "valid"),
        ("valid", "epoch"),
        ("valid", "end"),
        ("pred", "loss"),
        ("loss", "backward"),
    } <= ends(shown)
    assert not any(arrow.guard or arrow.effect or arrow.event for arrow in shown.arrows)


def test_the_outline_has_ones_own_states_too():
    """Only what serves the rest is left out."""
    life = st.supervised(validate=None).insert(st.State("clip", abs), between=("backward", "step"))
    shown = picture(life, detail="outline")
    assert set(shown.order) == TEN - {"valid"} | {"clip"}
    assert {("backward", "clip"), ("clip", "step")} <= ends(shown)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"optimizers": 2},
        {"validate": st.Every(2, "steps")},
        {"compute": abs},
    ],
)
def test_the_outline_shows_every_way_and_no_other(options):
    """An arrow leads from one state to another exactly where the whole picture has a way between them through states left out."""
    life = st.supervised(**options)
    whole, shown = picture(life), picture(life, detail="outline")
    onward = {}
    for arrow in whole.arrows:
        if arrow.kind != "event":
            onward.setdefault(arrow.tail, set()).add(arrow.head)
    seen = {name for name in shown.order if name not in shown.scopes and name != "valid"} | {
        "failed"
    }
    for name in seen - {"failed"}:
        goals, todo = set(), [name]
        while todo:
            for head in onward.get(todo.pop(), ()):
                if head in seen or head == "valid" or head.removesuffix(".start") in shown.scopes:
                    goals.add(head)
                else:
                    todo.append(head)
        assert {
            arrow.head.removesuffix(".start") for arrow in shown.arrows if arrow.tail == name
        } == {goal.removesuffix(".start") for goal in goals}


def test_a_folded_scope_is_one_state():
    """Its inside is gone, the arrows that cross its border stay."""
    shown = picture(st.supervised(), fold=["valid"])
    assert "valid" in shown.order
    assert not any("valid_" in name for name in shown.order)
    assert {("draw", "valid"), ("valid", "record")} <= ends(shown)
    assert ("valid", "valid") not in ends(shown)


def test_a_scope_that_is_not_there_cannot_be_folded():
    """The error knows what is meant."""
    with pytest.raises(
        ConfigError, match="fold: lifecycle 'supervised' has no scope 'vald'; did you mean 'valid'"
    ):
        svg(st.supervised(), fold=["vald"])


@settings(max_examples=40, deadline=None)
@given(life=lifecycles())
def test_any_lifecycle_can_be_outlined_folded_and_compared(life):
    """Every end of an arrow is in the picture, in all three languages."""
    scopes = [scope for scope in life.names if life.inside(scope)]
    for options in (
        {"detail": "outline"},
        {"fold": scopes[:1]},
        {"since": st.supervised()},
        {"since": life},
    ):
        shown = picture(life, **options)
        assert {end for arrow in shown.arrows for end in (arrow.tail, arrow.head)} <= {
            *shown.order,
            *shown.dots,
            "start",
            "failed",
            "",
        } | {arrow.tail for arrow in shown.arrows[:1]}
        Layout(shown)
        for write in (svg, dot, mermaid):
            assert write(life, **options)


# ---------------------------------------------------------------- what an edit does


def test_what_an_option_adds_removes_and_changes_is_told_apart():
    """Skipping what is not finite takes the place of raising; accumulation draws otherwise and adds an arrow."""
    shown = picture(st.supervised(accumulate=4, non_finite="skip"), since=st.supervised())
    changes = {(arrow.tail, arrow.head): arrow.change for arrow in shown.arrows if arrow.change}
    assert changes[("loss", "failed")] == "removed"
    assert changes[("loss", "next_batch")] == "added"
    assert changes[("backward", "next_batch")] == "added"
    assert shown.changes == {"draw": "changed"}


def test_what_is_gone_is_shown_where_it_was():
    """Without validation, its states and arrows are there as removed, and nothing else is."""
    shown = picture(st.supervised(validate=None), since=st.supervised())
    assert {name for name, change in shown.changes.items() if change == "removed"} == set(
        st.supervised().inside("valid")
    ) | {"valid"}
    assert all(arrow.change in ("", "removed") for arrow in shown.arrows)
    assert any(arrow.head == "valid" and arrow.change == "removed" for arrow in shown.arrows)


@pytest.mark.parametrize(
    "life",
    [st.supervised(), st.evaluation(), st.supervised(optimizers=2, check_gradients=True)],
    ids=["supervised", "evaluation", "alternating"],
)
def test_a_lifecycle_has_not_changed_since_itself(life):
    """No part stands out, and the picture is the plain one."""
    assert svg(life, since=life) == svg(life)


OPTIONS = [
    {},
    {"accumulate": 4},
    {"non_finite": "skip"},
    {"validate": None},
    {"optimizers": 2},
    {"check_gradients": True},
    {"validate": st.Every(3, "steps")},
    {"compute": abs},
]


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(range(len(OPTIONS)), 2)))
def test_any_two_standard_lifecycles_can_be_compared(one, other):
    """Every arrow of either is in the picture, added or removed or neither."""
    before, after = st.supervised(**OPTIONS[one]), st.supervised(**OPTIONS[other])
    shown = picture(after, since=before)
    plain = picture(after)
    assert len([arrow for arrow in shown.arrows if arrow.change != "removed"]) == len(plain.arrows)
    assert {*shown.order} == {*after.names, *before.names}


# ---------------------------------------------------------------- what a run adds


def test_a_guarded_arrow_says_how_often_it_held_of_how_often_it_was_asked():
    """Three epochs of four batches: more epochs was asked four times, a batch was drawn fifteen."""
    trace = st.testing.walk(
        st.supervised(validate=None),
        {"more epochs": [True] * 3, "a batch was drawn": ([True] * 4 + [False]) * 3},
    )
    times = {
        arrow.guard: arrow.times.replace("\N{NO-BREAK SPACE}", " ")
        for arrow in picture(trace.lifecycle, trace=trace).arrows
        if arrow.guard
    }
    assert times["more epochs"] == "\N{MULTIPLICATION SIGN} 3 of 4"
    assert times["a batch was drawn"] == "\N{MULTIPLICATION SIGN} 12 of 15"


def test_states_show_their_share_of_the_time():
    """What passed from an arrow's being taken to the next one is of the state that it led to."""
    life = st.supervised(validate=None)
    steps = [
        life.start,
        *(
            life.between(a, b)[0]
            for a, b in (("fit", "next_epoch"), ("next_epoch", "epoch"), ("epoch", "train"))
        ),
    ]
    trace = Trace(steps, lifecycle=life, moments=[Moment(time) for time in (0.0, 1.0, 1.0, 4.0)])
    assert {arrow.dest: seconds for arrow, seconds in trace.seconds().items()} == {
        "fit": 1.0,
        "next_epoch": 0.0,
        "epoch": 3.0,
    }
    shown = picture(life, trace=trace)
    assert shown.shares == {"fit": 0.25, "next_epoch": 0.0, "epoch": 0.75}
    assert shown.title("epoch") == "epoch  75%"
    assert "<title>75.0% of the time</title>" in trace.svg()
    assert picture(life, trace=Trace(steps, lifecycle=life)).shares == {}


def test_the_time_of_a_folded_scope_is_all_that_passed_in_it():
    """Nothing of it is lost."""
    life = st.supervised()
    whole = picture(life)
    names = [name for name in whole.order if name not in whole.scopes]
    steps = [next(t for t in (life.start, *life.transitions) if t.dest == name) for name in names]
    trace = Trace(
        [*steps, steps[0]],
        lifecycle=life,
        moments=[Moment(float(i)) for i in range(len(steps) + 1)],
    )
    shown = picture(life, trace=trace, fold=["valid"])
    assert sum(shown.shares.values()) == pytest.approx(1.0)
    assert shown.shares["valid"] == pytest.approx(
        sum("valid_" in name for name in names) / len(names)
    )


def test_in_a_notebook_things_show_their_pictures():
    """A lifecycle, a machine, a run and a trace: as SVG, as Mermaid and as text; a run with what it did."""
    run = st.fit(
        torch.nn.Linear(4, 2),
        (torch.randn(8, 4), torch.zeros(8, dtype=torch.long)),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        epochs=1,
        trace=True,
        verbose=False,
    )
    for thing in (run.lifecycle, run.machine, run, run.trace):
        bundle = thing._repr_mimebundle_()
        assert set(bundle) == {"text/plain", "text/vnd.mermaid", "image/svg+xml"}
        assert bundle["text/plain"] == (str(thing) if thing is run.lifecycle else repr(thing))
    assert "\N{MULTIPLICATION SIGN} 1" in run._repr_mimebundle_()["image/svg+xml"].replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "\N{MULTIPLICATION SIGN} 1" not in run.machine._repr_mimebundle_()[
        "image/svg+xml"
    ].replace("\N{NO-BREAK SPACE}", " ")
    assert run.svg() == run.trace.svg()
