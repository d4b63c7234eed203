"""Pictures with less in them, pictures of what an edit does, and what a run adds to them."""

import itertools
import re
import time

import pytest
import torch
from hypothesis import given, settings, strategies
from strategies import lifecycles
from torch.nn import functional as F

import statetrain as st
from statetrain.diagram import dot, mermaid, svg
from statetrain.diagram.layout import Placement
from statetrain.diagram.showing import picture
from statetrain.diagram.theme import theme_of
from statetrain.errors import ConfigError
from statetrain.testing import judge, precedes
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
@given(life=lifecycles(), before=lifecycles(), data=strategies.data())
def test_any_lifecycle_can_be_drawn_in_each_detail_folded_and_compared(life, before, data):
    """Every end of an arrow is in the picture, and all three languages have it."""
    scopes = [scope for scope in life.names if life.inside(scope)]
    fold = data.draw(strategies.lists(strategies.sampled_from(scopes or [""]), unique=True))
    fold = [scope for scope in fold if scope]
    for options in (
        {"detail": "full", "fold": fold},
        {"detail": "states", "fold": fold},
        {"detail": "outline"},
        {"detail": "outline", "fold": fold},
        {
            "detail": data.draw(strategies.sampled_from(["full", "states", "outline"])),
            "since": before,
        },
        {"since": st.supervised()},
        {"since": life},
    ):
        shown = picture(life, **options)
        ends = {end for arrow in shown.arrows for end in (arrow.tail, arrow.head)}
        assert ends <= {*shown.order, *shown.dots, "failed", "[*]"}
        for write in (svg, dot, mermaid):
            assert write(life, **options)


@pytest.mark.parametrize("scope", ["fit", "epoch", "train", "batch", "valid", "valid_batch"])
def test_any_scope_of_the_standard_lifecycle_can_be_folded_in_the_outline(scope):
    """Folding and the outline go together."""
    assert scope in picture(st.supervised(), detail="outline", fold=[scope]).order or scope == (
        "valid_batch"  # which is in `valid`, a single state of the outline
    )


def test_a_loop_through_a_state_that_the_outline_leaves_out_leads_to_its_own_state():
    """A state whose only neighbour is left out has an arrow to itself."""
    life = st.Lifecycle(
        "plateau",
        [
            st.State("fit"),
            st.State("epoch", _work, "fit"),
            st.State("judge", within="fit", anchor=True),
            st.State("end", final=True),
        ],
        [
            st.Transition("fit", "epoch"),
            st.Transition("epoch", "judge"),
            st.Transition("judge", "end", st.guard(_enough)),
            st.Transition("judge", "epoch"),
        ],
    )
    shown = picture(life, detail="outline")
    assert ("epoch", "epoch") in {(arrow.tail, arrow.head) for arrow in shown.arrows}
    for write in (svg, dot, mermaid):
        assert write(life, detail="outline")


def _work(ctx):
    """work"""


def _enough(ctx) -> bool:
    """enough"""
    return True


def test_marked_arrows_are_drawn_to_their_heads():
    """An arrow that stands out does so up to what it leads to, also where it shares a lane."""
    life = st.supervised()
    marked = [arrow for arrow in life.transitions if arrow.dest in ("record", "next_batch", "end")]
    layout = Placement(picture(life, marked=marked))
    assert any(route.joins for route in Placement(picture(life)).routes)
    standing_out = [route for route in layout.routes if route.arrow.recent]
    assert len(standing_out) >= 8
    for route in standing_out:
        box = layout.boxes[route.arrow.head]
        x, y = route.points[-1]
        assert not route.joins
        assert x in (box.x - box.left, box.x, box.x + box.right)
        assert box.top <= y <= box.bottom


def test_what_was_never_taken_is_grey_and_left_out_of_counterexamples():
    """A counterexample shows the arrows of its run alone."""
    verdict = judge(st.supervised(), precedes("valid", "record"), failures=False, events=False)
    assert "\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}0" not in verdict.svg()
    assert "\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}1" in verdict.svg()
    drawn = st.supervised().svg(counts={})
    zeros = re.findall(r'fill="(#\w+)"[^>]*>[^<]*\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}0', drawn)
    assert set(zeros) == {theme_of("light").soft}


def test_three_phases_stand_below_each_other():
    """More than two scopes in a row are read downwards, as the run goes through them."""
    phase = st.supervised()
    life = phase.prefixed("warm_").then(phase.prefixed("main_")).then(phase)
    boxes = Placement(picture(life, detail="outline")).boxes
    tops = [boxes[name].top for name in ("warm_fit", "main_fit", "fit")]
    assert tops == sorted(set(tops))
    assert {boxes[name].column for name in ("warm_fit", "main_fit", "fit")} == {0}
    # As in the picture of one phase, validation is a single state
    assert not boxes["warm_valid"].rows


def test_a_legend_says_what_the_colours_mean_that_a_picture_has():
    """Only of those that are there."""
    plain, compared = svg(st.prediction()), svg(st.supervised(accumulate=2), since=st.supervised())
    assert "the inner loop" in plain
    assert "added" not in plain
    assert "share of the time" not in plain
    assert ">added<" in compared
    assert ">removed<" in compared
    assert "removed" not in svg(st.supervised(), since=st.supervised())
    assert "the inner loop" in dot(st.prediction())


def test_states_say_what_they_do_when_pointed_at():
    """The action of a state is in its tooltip."""
    drawn = svg(st.supervised())
    assert re.search(r"<title>step\ndoes: [^<]+</title>", drawn)
    assert 'tooltip="step; does: ' in dot(st.supervised())


def test_a_table_of_two_thousand_states_is_drawn():
    """In a chain with a way back from each: no recursion, and nothing quadratic that is felt."""
    names = [f"s{i}" for i in range(2000)]
    states = [st.State(name, _work) for name in names] + [st.State("end", final=True)]
    enough = st.guard(_enough)
    arrows = [st.Transition(name, "end", enough) for name in names]
    arrows += [st.Transition(a, b) for a, b in itertools.pairwise([*names, "end"])]
    life = st.Lifecycle("long", states, arrows)
    begin = time.perf_counter()
    for write in (str, svg, dot, mermaid):
        assert write(life).count("s1234") >= 1
    assert time.perf_counter() - begin < 20.0  # 5 s on a machine with nothing else to do


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
    assert "<title>taken: 1\nguard evaluated: 1\n75.0% of the time</title>" in trace.svg()
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
    """A lifecycle, a machine and a trace: as HTML, SVG, Mermaid and text; a trace with what the run did."""
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
    for thing in (run.lifecycle, run.machine, run.trace):
        bundle = thing._repr_mimebundle_()
        assert set(bundle) == {"text/plain", "text/vnd.mermaid", "image/svg+xml", "text/html"}
        assert bundle["text/plain"] == (str(thing) if thing is run.lifecycle else repr(thing))
        # Of any width, it fits the page
        assert '<svg style="max-width: 100%; height: auto" ' in bundle["text/html"]
    once = "\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}1"
    assert once in run.trace._repr_mimebundle_()["image/svg+xml"]
    assert once not in run.machine._repr_mimebundle_()["image/svg+xml"]
    assert run.svg() == run.trace.svg()
