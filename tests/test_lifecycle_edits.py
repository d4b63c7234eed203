"""A lifecycle is a value: edits return another one, checked like the first, and leave the first as it was."""

import re

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import lifecycles

from statetrain.errors import LifecycleError
from statetrain.events import SkipBatch, StopFit
from statetrain.guards.base import guard
from statetrain.guards.clock import TimeLimit
from statetrain.guards.requests import stop_requested
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition
from statetrain.standard.looping import evaluation
from statetrain.standard.supervised import supervised

# The same examples each time, whatever the load
drawn = settings(derandomize=True, database=None, deadline=None)


def work(ctx):
    "work"


def other_work(ctx):
    "other work"


@guard
def more(ctx):
    "more"
    return False


@guard
def bad(ctx):
    "bad"
    return False


@guard
def worse(ctx):
    "worse"
    return False


@pytest.fixture
def life():
    return Lifecycle(
        "demo",
        [
            State("fit", work),
            State("head", within="fit"),
            State("batch", work, "fit"),
            State("pred", work, "batch"),
            State("loss", work, "batch"),
            State("step", work, "batch"),
            State("end", final=True),
        ],
        [
            Transition("fit", "head"),
            Transition("head", "batch", more, work),
            Transition("head", "end"),
            Transition("batch", "pred"),
            Transition("pred", "loss"),
            Transition("loss", "head", bad),
            Transition("loss", "step"),
            Transition("step", "head"),
            Transition("batch", "head", event=SkipBatch),
        ],
    )


def arrows(life, source):
    return [str(arrow) for arrow in life.arrows(source)]


# ---------------------------------------------------------------- a value


def test_equal_tables_are_equal():
    "Lifecycles made alike are equal and hash alike; a name, a state or an arrow makes them differ."
    assert supervised() == supervised()
    assert hash(supervised()) == hash(supervised())
    assert supervised() != supervised(accumulate=2)
    assert attrs.evolve(supervised(), name="mine") != supervised()


def test_names_that_hooks_may_mention_do_not_count():
    "Which other names hooks may mention is no part of what a lifecycle is."
    assert attrs.evolve(supervised(), also=frozenset()) == supervised()
    assert hash(attrs.evolve(supervised(), also=frozenset())) == hash(supervised())


def test_nothing_of_a_lifecycle_can_be_set(life):
    "A lifecycle, its states and its arrows are frozen."
    for thing, field in ((life, "states"), (life.states[0], "name"), (life.transitions[0], "dest")):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(thing, field, "x")
    assert isinstance(life.states, tuple)
    assert isinstance(life.transitions, tuple)


def test_every_edit_returns_another_value(life):
    "Each edit gives a lifecycle that differs from the first, and the first stays as it was."
    before = attrs.astuple(life, recurse=False)
    edited = [
        life.insert(State("new", work), between=("pred", "loss")),
        life.replace("step", action=other_work),
        life.without("pred"),
        life.add(State("new", work), Transition("head", "new", bad), Transition("new", "head")),
        life.remove(life.between("loss", "head")[0]),
        life.alter(life.between("pred", "loss")[0], effect=work),
        life.add(Transition("loss", "head", more, work))
        .reorder("loss", ["head", "head", "step"])
        .remove(*life.between("loss", "head")),
    ]
    assert attrs.astuple(life, recurse=False) == before
    assert all(
        isinstance(after, Lifecycle) and after != life and after.name == "demo" for after in edited
    )
    assert len(set(edited)) == len(edited)


# ---------------------------------------------------------------- insert


def test_insert_puts_a_state_on_an_arrow(life):
    "The arrow keeps its guard and effect and leads to the new state; one plain arrow leads on."
    after = life.insert(State("new", work), between=("head", "batch"))
    assert arrows(after, "head") == ["head -> new [more] / work", "head -> end"]
    assert arrows(after, "new") == ["new -> batch"]
    assert after.names == ("fit", "head", "new", "batch", "pred", "loss", "step", "end")


@pytest.mark.parametrize(
    ("between", "scope"),
    [
        (("pred", "loss"), "batch"),
        (("head", "batch"), "fit"),
        (("fit", "head"), "fit"),
        (("head", "end"), None),
    ],
)
def test_insert_finds_the_scope_that_both_ends_share(life, between, scope):
    "A state that names no scope lies in the innermost one around both ends; the source's own counts if the end is inside."
    assert life.insert(State("new", work), between=between).state("new").within == scope


def test_insert_keeps_a_scope_that_is_named(life):
    "A state that names a scope lies there."
    assert (
        life.insert(State("new", work, "fit"), between=("pred", "loss")).state("new").within
        == "fit"
    )


def test_insert_takes_all_arrows_from_one_state_to_the_other(life):
    "Several arrows with the same ends all lead to the new state, those with events too."
    life = life.add(
        Transition("batch", "pred", more, work), Transition("batch", "pred", event=StopFit)
    )
    after = life.insert(State("new", work), between=("batch", "pred"))
    assert [str(t) for t in after.transitions if t.dest == "new"] == [
        "batch -> new [more] / work",
        "batch -> new",
        "batch -> new StopFit",
    ]
    assert arrows(after, "new") == ["new -> pred"]


def test_insert_between_states_without_an_arrow(life):
    "There is nothing to put a state on, and the error names where the source does lead."
    with pytest.raises(
        LifecycleError, match=re.escape("demo: no arrow pred -> lsos; did you mean 'loss'?")
    ):
        life.insert(State("new"), between=("pred", "lsos"))
    with pytest.raises(
        LifecycleError, match=re.escape("demo: no state 'perd'; did you mean 'pred'?")
    ):
        life.insert(State("new"), between=("perd", "loss"))


def test_insert_of_a_name_that_is_taken(life):
    "An edit is checked like any lifecycle."
    with pytest.raises(LifecycleError, match="two states are called 'step'"):
        life.insert(State("step"), between=("pred", "loss"))


@drawn
@given(
    st.data(),
    lifecycles()
    | st.sampled_from([supervised(), supervised(accumulate=2, non_finite="skip"), evaluation()]),
)
def test_insert_then_without_is_the_identity(data, life):
    "Whatever arrow a state is put on, taking the state out again gives the same table."
    ends = [(t.source, t.dest) for t in life.transitions if t.dest != FAILED]
    after = life.insert(State("new", work), between=data.draw(st.sampled_from(ends)))
    assert after != life
    assert after.without("new") == life


# ---------------------------------------------------------------- without


def test_without_leads_arrows_on(life):
    "Arrows to a removed state lead to where its last arrow led."
    after = life.without("pred")
    assert arrows(after, "batch") == ["batch -> loss"]
    assert "pred" not in after.names


def test_without_takes_what_lies_inside(life):
    "A scope goes with the states inside it, and the arrow to it leads to where its way through ended."
    after = life.without("batch")
    assert after.names == ("fit", "head", "end")
    assert [str(t) for t in after.transitions] == [
        "fit -> head",
        "head -> head [more] / work",
        "head -> end",
    ]


def test_without_several_states(life):
    "States are removed together, so arrows may lead on over all of them."
    life = life.remove(*life.between("loss", "head"))
    assert arrows(life.without("loss", "pred"), "batch") == ["batch -> step"]


def test_without_a_state_that_decides_is_refused(life):
    "What is decided in a state, such as whether the loss is finite, is not lost with it in silence."
    with pytest.raises(
        LifecycleError,
        match=re.escape(
            "demo: without 'loss', arrow loss -> head [bad] would be lost, and with it what is"
            " decided there; remove it first, life.remove(*life.between('loss', 'head'))"
        ),
    ):
        life.without("loss")
    standard = supervised(validate=None)
    with pytest.raises(LifecycleError, match="loss -> failed"):
        standard.without("pred", "loss", "backward", "step")
    assert "loss" not in supervised(non_finite="ignore").without("pred", "loss").names


def test_without_drops_a_guard_that_no_longer_decides(life):
    "A guarded arrow that would lead to where the next one leads falls away, and so does one before it."
    life = life.add(State("a", work, "fit"), Transition("a", "head"), Transition("step", "a", more))
    life = life.add(State("b", work, "fit"), Transition("b", "head"), Transition("step", "b", bad))
    assert arrows(life.without("a", "b"), "step") == ["step -> head"]


def test_without_keeps_a_guard_whose_arrow_does_something(life):
    "A guarded arrow with an effect stays though it leads to where the next one leads."
    life = life.add(
        State("a", work, "fit"), Transition("a", "head"), Transition("step", "a", more, work)
    )
    assert arrows(life.without("a"), "step") == ["step -> head [more] / work", "step -> head"]


def test_without_keeps_what_said_the_same_before():
    "A guard that decided nothing before the edit is not the edit's business."
    life = Lifecycle(
        "demo",
        [State("a", work), State("b", work), State("end", final=True)],
        [Transition("a", "b", more), Transition("a", "b"), Transition("b", "end")],
    )
    assert arrows(life.without("b"), "a") == ["a -> end [more]", "a -> end"]


def test_without_a_state_that_leads_nowhere_that_stays():
    "Nobody can say where the arrows should lead, so they have to be led elsewhere first."
    life = Lifecycle(
        "demo",
        [State("a"), State("b", work), State("c", work), State("end", final=True)],
        [
            Transition("a", "b", more),
            Transition("a", "end"),
            Transition("b", "end", more),
            Transition("b", "c"),
            Transition("c", "b"),
        ],
    )
    with pytest.raises(
        LifecycleError, match="demo: 'b' leads nowhere that stays; redirect the arrows to it first"
    ):
        life.without("b", "c")


def test_without_a_loop_that_nothing_outside_leads_into():
    "A loop deep inside a removed scope is nobody's way."
    life = Lifecycle(
        "demo",
        [
            State("a"),
            State("s", work),
            State("b", work, "s"),
            State("c", work, "s"),
            State("end", final=True),
        ],
        [
            Transition("a", "s"),
            Transition("s", "b", more),
            Transition("s", "end"),
            Transition("b", "end", bad),
            Transition("b", "c"),
            Transition("c", "b"),
        ],
    )
    assert [str(t) for t in life.without("s").transitions] == ["a -> end"]


def test_without_an_unknown_state(life):
    "A misspelt name is refused with the nearest one."
    with pytest.raises(
        LifecycleError, match=re.escape("demo: no state 'perd'; did you mean 'pred'?")
    ):
        life.without("perd")


def test_without_the_initial_state(life):
    "A lifecycle without its start is not sound."
    with pytest.raises(
        LifecycleError, match="demo: 'fit' is where a run starts, so it cannot be removed"
    ):
        life.without("fit")


# ---------------------------------------------------------------- replace, alter


def test_replace_changes_a_state_and_keeps_its_arrows(life):
    "Some fields, or a whole state of the same name, in the place of the old one."
    after = life.replace("step", action=other_work, anchor=True)
    assert after.state("step") == State("step", other_work, "batch", anchor=True)
    assert after.transitions == life.transitions
    assert life.replace(State("step", other_work, "batch", anchor=True)) == after
    assert after.names == life.names


def test_replace_keeps_the_name(life):
    "Hooks and arrows go by the name, so another one is another state; the message says what to do."
    with pytest.raises(
        LifecycleError,
        match=re.escape("got 'update' for 'step'; insert the new state and use without('step')"),
    ):
        life.replace("step", name="update")
    with pytest.raises(LifecycleError, match=re.escape("no state 'setp'; did you mean 'step'?")):
        life.replace("setp", action=work)


def test_alter_changes_an_arrow_where_it_stands(life):
    "An arrow takes another guard or effect and keeps its place."
    at = life.between("loss", "head")[0]
    after = life.alter(at, guard=more, effect=work)
    assert arrows(after, "loss") == ["loss -> head [more] / work", "loss -> step"]
    with pytest.raises(
        LifecycleError,
        match=re.escape(
            "demo: no arrow loss -> head [bad]; its source has: loss -> head [more] / work; loss ->"
            " step"
        ),
    ):
        after.alter(at, effect=None)


# ---------------------------------------------------------------- arrows by their text


def test_an_arrow_is_found_by_its_text(life):
    "All of it as the table prints it, or as much of it as no other arrow begins with; spaces do not matter."
    bad, step = life.arrows("loss")
    assert life.arrow("loss -> head [bad]") is bad
    assert life.arrow("loss->head") is bad
    assert life.arrow(" loss ->  step ") is step
    assert all(life.arrow(str(arrow)) is arrow for arrow in life.transitions)


def test_the_text_of_no_arrow_is_answered_with_the_nearest(life):
    "An unknown state, an unknown way, an unknown guard, and what is no text of an arrow."
    for text, words in {
        "lss -> head": "demo: no state 'lss'; did you mean 'loss'?",
        "loss -> head [bda]": "no arrow 'loss -> head [bda]'; did you mean 'loss -> head [bad]'?",
        "loss -> end": "no arrow 'loss -> end'; did you mean 'loss -> step'?",
        "loss": "the text of an arrow is 'source -> dest', or more of it",
    }.items():
        with pytest.raises(LifecycleError, match=re.escape(words)):
            life.arrow(text)


def test_a_text_that_several_arrows_begin_with_is_refused():
    "Which one is meant is not guessed: the message has all of them. The whole text of a plain one is that one's."
    life = Lifecycle(
        "two ways",
        [State("work", work), State("end", final=True)],
        [
            Transition("work", "end", stop_requested),
            Transition("work", "end", TimeLimit(minutes=1)),
            Transition("work", "end", more),
            Transition("work", "work"),
        ],
    )
    with pytest.raises(
        LifecycleError, match=r"is the text of 3 arrows: work -> end \[stop requested\]; "
    ):
        life.arrow("work -> end")
    assert life.arrow("work -> end [more]").guard.label == "more"
    assert life.arrow("work -> work") is life.transitions[-1]


def test_edits_take_the_texts_of_arrows(life):
    "`edit`, `alter`, `remove` and `add` do with a text what they do with the arrow itself."
    bad = life.arrow("loss -> head [bad]")
    assert life.remove("loss -> head") == life.remove(bad)
    assert life.alter("loss -> head", effect=work) == life.alter(bad, effect=work)
    new = Transition("loss", "pred", more)
    assert life.add(new, before="loss -> head") == life.add(new, before=bad)
    assert life.edit(remove="loss -> head", add=new) == life.edit(remove=[bad], add=[new])
    assert life.edit(alter={"loss -> step": {"effect": work}, "step": {"action": other_work}}) == (
        life.alter(life.arrow("loss -> step"), effect=work).replace("step", action=other_work)
    )
    with pytest.raises(LifecycleError, match="did you mean 'loss -> head \\[bad\\]'"):
        life.edit(remove=["loss -> head [bd]"])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda life: life.alter("loss -> step", effct=work), "no field 'effct'; did you mean"),
        (lambda life: life.replace("loss", actn=work), "state 'loss' has no field 'actn'; did you"),
        (lambda life: life.replace(3), "replace takes a State or the name of one, got 3"),
        (lambda life: life.edit(alter={"loss": {"acton": work}}), "no field 'acton'; did you mean"),
        (
            lambda life: life.edit(alter={"loss": work}),
            "changes of state 'loss' are values by field",
        ),
        (lambda life: life.edit(alter=["loss"]), "alter= takes changes by state or arrow"),
        (lambda life: life.edit(remove=3), "an arrow is a Transition or its text, got 3"),
        (lambda life: life.edit(add=3), "3 is not a State"),
        (lambda life: life.children("btch"), "no state 'btch'; did you mean 'batch'?"),
        (lambda life: life.path(3), "no state 3; known: "),
        (lambda life: life.prefixed("a b"), "a prefix is the beginning of an identifier"),
        (lambda life: life.then("other"), "then takes the Lifecycle that follows, got 'other'"),
    ],
)
def test_what_cannot_be_edited_so_is_refused_in_our_words(life, edit, words):
    "A wrong name or a wrong kind of value is a LifecycleError that says what to write, not an error of Python."
    with pytest.raises(LifecycleError, match=re.escape(words)):
        edit(life)


# ---------------------------------------------------------------- add, remove, reorder


def test_add_puts_arrows_where_they_are_asked(life):
    "A guarded arrow goes before the unguarded last one; with `first`, before all, in the order given."
    one, two = Transition("loss", "pred", more), Transition("loss", "batch", worse)
    assert arrows(life.add(one, two), "loss") == [
        "loss -> head [bad]",
        "loss -> pred [more]",
        "loss -> batch [worse]",
        "loss -> step",
    ]
    assert arrows(life.add(one, two, first=True), "loss") == [
        "loss -> pred [more]",
        "loss -> batch [worse]",
        "loss -> head [bad]",
        "loss -> step",
    ]
    there = life.between("loss", "head")[0]
    assert life.add(one, two, before=there) == life.add(one, two, first=True)


def test_add_puts_events_last_or_first(life):
    "An arrow on an event comes after the others of its source; with `first`, a narrower one comes before a wider one."
    life = life.add(Transition("fit", "end", event=Exception))
    assert str(life.transitions[-1]) == "fit -> end Exception"
    with pytest.raises(LifecycleError, match="hidden behind"):
        life.add(Transition("fit", "head", event=StopFit))
    after = life.add(Transition("fit", "head", event=StopFit), first=True)
    assert [t.dest for t in after.on_event("pred", StopFit())] == ["head", "end"]


def test_add_takes_states_and_arrows_together(life):
    "What is added may only be sound together."
    after = life.add(
        State("a", work),
        State("b", work),
        Transition("a", "b"),
        Transition("b", "head"),
        Transition("step", "a", more),
    )
    assert after.names[-2:] == ("a", "b")
    assert arrows(after, "step") == ["step -> a [more]", "step -> head"]
    with pytest.raises(LifecycleError, match="no arrow leads to 'a' itself"):
        life.add(State("a", work), Transition("a", "head"))


def test_remove_takes_arrows_out(life):
    "`between` gives the arrows to remove; one that is not there is refused with those that are."
    assert arrows(life.remove(*life.between("loss", "head")), "loss") == ["loss -> step"]
    with pytest.raises(
        LifecycleError,
        match=re.escape(
            "demo: no arrow loss -> end; its source has: loss -> head [bad]; loss -> step"
        ),
    ):
        life.remove(Transition("loss", "end"))
    with pytest.raises(LifecycleError, match="every guard on 'loss' may be false"):
        life.remove(*life.between("loss", "step"))


def test_add_then_remove_is_the_identity(life):
    "Taking out what was put in gives the same table."
    arrow = Transition("loss", "pred", more)
    assert life.add(arrow).remove(arrow) == life


def test_reorder_asks_in_another_order(life):
    "The arrows out of a state stand in the order of their ends; those of other states, and events, stay in place."
    life = life.add(Transition("loss", "pred", more), Transition("loss", "end", event=StopFit))
    after = life.reorder("loss", ["pred", "head", "step"])
    assert arrows(after, "loss") == ["loss -> pred [more]", "loss -> head [bad]", "loss -> step"]
    assert [t for t in after.transitions if t.source != "loss" or t.event] == [
        t for t in life.transitions if t.source != "loss" or t.event
    ]
    assert after.reorder("loss", ["head", "pred", "step"]) == life


def test_reorder_exchanges_two_arrows_to_one_state():
    "By the arrows themselves, or by their texts; by where they lead alone their order stays."
    life = Lifecycle(
        "two ways",
        [State("work"), State("end", final=True)],
        [
            Transition("work", "end", stop_requested),
            Transition("work", "end", TimeLimit(minutes=1)),
            Transition("work", "end"),
        ],
    )
    stop, limit, plain = life.arrows("work")
    exchanged = life.reorder("work", [limit, stop, plain])
    assert exchanged.arrows("work") == (limit, stop, plain)
    assert life.reorder("work", [str(limit), str(stop), str(plain)]) == exchanged
    assert life.reorder("work", ["end", "end", "end"]) == life
    with pytest.raises(LifecycleError, match="needs each of"):
        life.reorder("work", [stop, stop, plain])


def test_reorder_needs_each_arrow_once(life):
    "A list that leaves out or adds an end is refused, and the message shows what is needed."
    with pytest.raises(
        LifecycleError,
        match=re.escape("demo: reorder('loss') needs each of ['head', 'step'], got ['step']"),
    ):
        life.reorder("loss", ["step"])
    with pytest.raises(LifecycleError, match="hidden behind loss -> step"):
        life.reorder("loss", ["step", "head"])
