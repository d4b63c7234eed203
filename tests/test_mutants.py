"""Tables that differ in one place: all of them, sound, in words, and noticed by the generated paths."""

from functools import partial

import pytest

import statetrain as st
from statetrain import Lifecycle, State, Transition
from statetrain.contracts.composing import then
from statetrain.testing import check, mutants, precedes, survivors


def work(ctx):
    "work"


def other(ctx):
    "other work"


def lower(ctx, factor):
    "lower the rate"


@st.guard
def done(ctx):
    "done"
    return True


@st.guard
def tired(ctx):
    "tired"
    return True


def table():
    return Lifecycle(
        "little",
        [
            State("a", then(work, other)),
            State("b", partial(lower, factor=0.5), "a"),
            State("z", final=True),
        ],
        [
            Transition("a", "b"),
            Transition("b", "z", done, then(work, other)),
            Transition("b", "z", tired, partial(lower, factor=0.1)),
            Transition("b", "a"),
            Transition("a", "z", event=st.StopFit),
            Transition("a", "b", event=st.SkipBatch),
        ],
    )


@pytest.mark.parametrize(
    ("life", "least"),
    [(st.supervised(), 500), (st.prediction(), 60), (table(), 30)],
    ids=["supervised", "prediction", "little"],
)
def test_generated_paths_notice_all_mutants(life, least):
    """Of all sound tables that differ in one arrow, guard, order, event, effect or action, the paths miss none."""
    assert len(list(mutants(life))) > least
    assert survivors(life) == []


def test_each_kind_of_change_is_made():
    """By hand, for a little table: what is removed, exchanged, reversed; nothing twice, nothing unsound, never the table itself."""
    life = table()
    found = list(mutants(life))
    assert all(mutant.lifecycle != life for mutant in found)
    assert len({mutant.words for mutant in found}) == len(found)
    words = {
        kind: [m.words for m in found if m.kind == kind]
        for kind in ("guard", "order", "effect", "action", "event")
    }
    assert any("guard was [done], is [not done]" in text for text in words["guard"])
    assert words["order"] == [
        "the arrows out of 'b' are in another order: b -> z [tired] / lower the rate; b -> z [done] / work, other work; b -> a"
    ]
    # each effect: removed, another; the composed one also without either part
    assert len(words["effect"]) == 2 + 2 + 2
    # the same of the actions
    assert len(words["action"]) == 2 + 2 + 2
    assert len(words["event"]) == 0  # two arrows would take one event
    arrows = [m for m in found if m.kind == "arrow"]
    assert any("arrow b -> z [done] / work, other work removed" in m.words for m in arrows)


def test_a_mutant_that_a_test_does_not_notice_survives():
    """A property notices the changes that break it, and no others; the table itself has to pass."""
    life, ordered = st.evaluation(), precedes("valid_pred", "valid_loss")
    alive = survivors(life, lambda mutant: check(mutant, ordered), ["arrow", "effect"])
    assert alive
    assert all(verdict.proof for m in alive for verdict in check(m.lifecycle, ordered))
    dead = {m.words for m in mutants(life, ["arrow", "effect"])} - {m.words for m in alive}
    assert "arrow valid_draw -> record removed; arrow valid_draw -> valid_loss added" in dead
    assert all(" -> valid_loss" in words for words in dead)  # only what leads there can break it
    assert str(alive[-1]).startswith("effect: arrow ")
    with pytest.raises(AssertionError, match="broken: valid_loss precedes valid_pred"):
        survivors(life, lambda mutant: check(mutant, precedes("valid_loss", "valid_pred")))


def test_a_kind_that_there_is_not():
    """It is refused with those that there are."""
    with pytest.raises(
        st.LifecycleError,
        match="a kind is one of arrow, guard, order, event, effect, action, got 'arrows'",
    ):
        list(mutants(st.supervised(), ["arrows"]))


def test_an_interval_has_an_opposite_too():
    "`~Every(...)` is refused, since it remembers; for a mutant, the arrow is taken where it is not due. The paths notice."
    life = table()
    life = life.alter(
        next(a for a in life.transitions if a.guard is not None), guard=st.Every(2, "steps")
    )
    found = [mutant for mutant in mutants(life, ["guard"]) if "every 2 steps" in str(mutant)]
    assert any("is [not every 2 steps]" in str(mutant) for mutant in found)
    assert survivors(life, kinds=["guard"]) == []
