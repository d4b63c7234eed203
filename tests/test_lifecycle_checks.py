"""What makes a table unsound is refused when it is made, with the lifecycle, the state or arrow, and the remedy."""

import re

import attrs
import pytest

from statetrain.errors import LifecycleError
from statetrain.events import SkipBatch, StopFit
from statetrain.guards.base import guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition


def work(ctx):
    "work"


def explode(ctx):
    "explode"
    raise ArithmeticError


@guard
def more(ctx):
    "more"
    return False


class Switch:
    def read(self, ctx): ...
    def write(self, ctx, value): ...
    def begin(self, ctx): ...
    def wrap(self, action):
        return action


END = State("end", final=True)


def refused(states, transitions, *words, initial=""):
    """Holds that making the table fails with all of these words, the lifecycle's name among them."""
    with pytest.raises(LifecycleError) as error:
        Lifecycle("demo", states, transitions, initial)
    message = str(error.value)
    assert message.startswith("demo: ")
    for word in words:
        assert word in message, message


def plain(*names):
    """States without work, each leading to the next, and their arrows."""
    return [State(name) for name in names] + [END], [
        Transition(a, b) for a, b in zip(names, (*names[1:], "end"), strict=True)
    ]


# ---------------------------------------------------------------- names


def test_no_states():
    "A lifecycle without states says what it needs at least."
    refused([], [], "needs states", "an initial and a final one")


@pytest.mark.parametrize("name", ["next batch", "1st", "", "a-b", 3])
def test_a_name_that_is_no_identifier(name):
    "Hooks are named after states, so a state's name has to be an identifier; the message shows one."
    refused([State(name), END], [], repr(name), "not an identifier", "write it like 'next_batch'")


def test_a_state_called_failed():
    "Every lifecycle has `failed`, so declaring it is refused and leading arrows to it is the remedy."
    refused(
        [State("a"), State("failed"), END],
        [],
        "'failed'",
        "in every lifecycle already",
        "lead arrows to it",
    )


def test_two_states_of_one_name():
    "Two states of one name are refused."
    refused([State("a"), State("a"), END], [], "two states are called 'a'", "rename one")


def test_an_unknown_initial_state():
    "A misspelt initial state is refused with the nearest name."
    refused(*plain("fit"), "initial state 'fti'", "did you mean 'fit'?", initial="fti")


def test_no_final_state():
    "A run has to be able to end, and the message says how."
    refused(
        [State("a")], [Transition("a", "a")], "no state is final", "add State('end', final=True)"
    )


# ---------------------------------------------------------------- scopes


def test_an_unknown_scope():
    "A state within a scope that is not there is refused with the nearest name."
    refused(
        [State("epoch"), State("a", within="epohc"), END],
        [],
        "State 'a'",
        "unknown scope 'epohc'",
        "did you mean 'epoch'?",
    )


def test_a_state_within_itself():
    "Scopes that lie within each other in a circle are refused, and the circle is shown."
    states = [State("a", within="c"), State("b", within="a"), State("c", within="b"), END]
    refused(
        states,
        [],
        "State 'a' lies within itself",
        "a within c within b within a",
        "take one of these out",
    )


def test_a_circle_of_scopes_further_out():
    "A state inside a circle of scopes that it is no part of does not hang the check."
    states = [State("x", within="a"), State("a", within="b"), State("b", within="a"), END]
    refused(states, [], "State 'a' lies within itself", "a within b within a")


def test_a_final_state_as_a_scope():
    "Nothing lies within a final state."
    refused(
        [State("a"), END, State("b", within="end")],
        [],
        "State 'b'",
        "'end', which is final",
        "cannot be a scope",
    )


@pytest.mark.parametrize(
    "end",
    [
        State("end", within="fit", final=True),
        State("end", final=True, mode=Switch()),
        State("end", final=True, close=work),
    ],
)
def test_a_final_state_that_nothing_would_close(end):
    "A final state is never left, so it has no scope, no mode and no close work."
    refused(
        [State("fit"), end],
        [Transition("fit", "end")],
        "final state 'end'",
        "nothing would close it",
        "put it outside",
    )


# ---------------------------------------------------------------- arrows


def test_an_arrow_from_an_unknown_state():
    "An arrow from a state that is not there is refused with the nearest name."
    states, arrows = plain("batch")
    refused(
        states,
        [*arrows, Transition("bacth", "end")],
        "arrow bacth -> end",
        "unknown state 'bacth'",
        "did you mean 'batch'?",
    )


def test_an_arrow_to_an_unknown_state():
    "An arrow to a state that is not there is refused with the nearest name."
    states, arrows = plain("batch")
    refused(
        states,
        [Transition("batch", "edn", more), *arrows],
        "arrow batch -> edn [more]",
        "unknown state 'edn'",
        "did you mean 'end'?",
    )


def test_an_arrow_out_of_a_final_state():
    "A run ends in a final state, so no arrow leaves one."
    states, arrows = plain("a")
    refused(
        states,
        [*arrows, Transition("end", "a")],
        "arrow end -> a",
        "leaves a final state",
        "remove it",
    )


def test_an_arrow_to_failed_without_an_effect():
    "An arrow to `failed` has to raise the error that a run fails with."
    states, arrows = plain("a")
    refused(
        states,
        [Transition("a", "failed", more), *arrows],
        "arrow a -> failed [more]",
        "without an error",
        "give it an effect",
    )


def test_an_arrow_to_failed_with_an_effect_is_sound():
    "Every lifecycle has `failed`: an arrow may lead there though no state of that name is declared."
    states, arrows = plain("a")
    life = Lifecycle("demo", states, [Transition("a", "failed", more, explode), *arrows])
    assert life.arrows("a")[0].dest == "failed"
    assert "failed" not in life.names


@pytest.mark.parametrize("event", ["StopFit", StopFit("now"), int])
@pytest.mark.parametrize("dest", ["end", "nowhere"])
def test_an_event_that_is_no_class_of_exception(event, dest):
    "What an arrow is taken on is a class of exception, not its name or an instance; whatever else is wrong with it."
    states, arrows = plain("a")
    refused(
        states,
        [*arrows, Transition("a", dest, event=event)],
        f"arrow a -> {dest}",
        "must be a class of exception",
        repr(event),
    )


def test_the_same_arrow_twice():
    "Two arrows with the same ends, guard and event would only hide each other."
    states, arrows = plain("a")
    refused(
        states,
        [Transition("a", "end", more), Transition("a", "end", more, work), *arrows],
        "arrow a -> end [more]",
        "twice",
        "remove one",
    )


# -------------------- the order in which arrows are asked


def test_an_arrow_that_is_never_asked():
    "Arrows out of a scope that nothing leads to itself are never asked, so they are refused."
    states = [State("scope"), State("a", within="scope"), END]
    arrows = [Transition("a", "end"), Transition("scope", "end")]
    refused(
        states,
        arrows,
        "scope -> end is never asked",
        "no arrow leads to 'scope' itself",
        "start the arrow inside it",
        initial="a",
    )


def test_a_state_without_an_arrow_out():
    "A state that is no final one has to lead somewhere."
    refused(
        [State("a"), State("b"), END],
        [Transition("a", "b")],
        "State 'b' has no arrow out",
        "add one, or make it final",
    )


def test_a_state_whose_guards_may_all_be_false():
    "A state's last arrow has no guard, so that a run cannot get stuck; the message names the guard."
    refused(
        [State("a"), END],
        [Transition("a", "end", more)],
        "every guard on 'a' may be false",
        "[more]",
        "one that has no guard",
    )


def test_an_arrow_behind_one_that_always_holds():
    "What comes after an arrow without a guard is never asked."
    states, arrows = plain("a")
    refused(
        states,
        [*arrows, Transition("a", "end", more, work)],
        "a -> end [more] / work is hidden behind a -> end",
        "put the guarded one first",
    )


def test_an_event_behind_a_wider_one():
    "An arrow on an event that an earlier one takes already is refused."
    states, arrows = plain("a")
    arrows += [
        Transition("a", "end", event=Exception),
        Transition("a", "end", effect=work, event=SkipBatch),
    ]
    refused(
        states,
        arrows,
        "a -> end SkipBatch / work is hidden behind a -> end Exception",
        "put the narrower event first",
    )


def test_an_event_behind_a_wider_one_with_a_guard():
    "A guard on the wider event leaves something for the narrower one."
    states, arrows = plain("a")
    arrows += [
        Transition("a", "end", more, event=Exception),
        Transition("a", "end", event=SkipBatch),
    ]
    assert len(list(Lifecycle("demo", states, arrows).on_event("a", SkipBatch()))) == 2


# ---------------------------------------------------------------- ways


def test_a_state_that_cannot_be_reached():
    "A state that no arrow leads to is refused, and the message says from where."
    states, arrows = plain("a")
    refused(
        [*states, State("lost")],
        arrows,
        "State 'lost' cannot be reached from 'a'",
        "lead an arrow to it, or remove it",
    )


def test_a_state_that_only_an_event_leads_to():
    "An event's arrow is a way as well."
    states, arrows = plain("a", "c")
    arrows += [Transition("b", "end"), Transition("a", "b", event=SkipBatch)]
    assert "b" in Lifecycle("demo", [*states, State("b")], arrows).names


def test_a_scope_that_is_opened_on_the_way_and_led_to_later():
    "A scope's own arrows count once an arrow leads to it, though it was open before."
    states = [
        State("a"),
        State("scope"),
        State("b", work, "scope"),
        State("c", within="scope"),
        END,
    ]
    arrows = [
        Transition("a", "b"),
        Transition("b", "scope", more),
        Transition("b", "end"),
        Transition("scope", "c"),
        Transition("c", "end"),
    ]
    assert Lifecycle("demo", states, arrows).inside("scope") == ("b", "c")


def test_states_without_a_way_to_the_end():
    "States from which no final state can be reached are all named."
    states = [State("a"), State("b", work), State("c"), END]
    arrows = [
        Transition("a", "b", more),
        Transition("a", "end"),
        Transition("b", "c"),
        Transition("c", "b"),
    ]
    refused(states, arrows, "no way leads from 'b', 'c' to a final state", "add an arrow out")


# ---------------------------------------------------------------- loops in which nothing is done


def test_a_loop_in_which_nothing_is_done():
    "Guards read what actions and effects write, so a loop without either could only spin; it is shown."
    states = [State("a"), State("b"), END]
    arrows = [Transition("a", "b"), Transition("b", "a", more), Transition("b", "end")]
    refused(
        states,
        arrows,
        "a -> b -> a is a loop in which nothing is done",
        "give one of its states an action or one of its arrows an effect",
    )


@pytest.mark.parametrize(
    ("b", "back"),
    [
        (State("b", work), Transition("b", "a", more)),
        (State("b", close=work), Transition("b", "a", more)),
        (State("b", mode=Switch()), Transition("b", "a", more)),
        (State("b"), Transition("b", "a", more, work)),
    ],
    ids=["action", "close", "mode", "effect"],
)
def test_a_loop_in_which_something_is_done(b, back):
    "Any work in a loop makes it sound: an action, close work, a mode or an effect."
    assert Lifecycle(
        "demo", [State("a"), b, END], [Transition("a", "b"), back, Transition("b", "end")]
    )


def test_a_loop_through_the_work_of_a_scope():
    "The work of a scope that is opened on the way round counts as well."
    states = [State("a"), State("scope", work), State("b", within="scope"), END]
    assert Lifecycle(
        "demo", states, [Transition("a", "b"), Transition("b", "a", more), Transition("b", "end")]
    )


def test_a_state_that_leads_to_itself_without_work():
    "The shortest loop is one arrow."
    refused(
        [State("a"), END],
        [Transition("a", "a", more), Transition("a", "end")],
        "a -> a is a loop in which nothing is done",
    )


# ---------------------------------------------------------------- questions


def test_questions_about_what_is_not_there():
    "Asking for a state or an arrow that is not there names the nearest one."
    life = Lifecycle("demo", *plain("batch", "step"))
    with pytest.raises(
        LifecycleError, match=re.escape("demo: no state 'bacth'; did you mean 'batch'?")
    ):
        life.state("bacth")
    with pytest.raises(
        LifecycleError, match=re.escape("demo: no arrow batch -> setp; did you mean 'step'?")
    ):
        life.between("batch", "setp")


def test_crossings():
    "An arrow leaves and enters what its ends do not share; going to an open scope closes and reopens it."
    states = [
        State("fit"),
        State("epoch", work, "fit"),
        State("train", None, "epoch"),
        State("valid", None, "epoch"),
        END,
    ]
    arrows = [
        Transition("fit", "train"),
        Transition("train", "valid"),
        Transition("valid", "epoch", more),
        Transition("valid", "end"),
        Transition("epoch", "train"),
    ]
    life = Lifecycle("demo", states, arrows)
    assert life.crossing("[*]", "train") == ((), ("fit", "epoch", "train"))
    assert life.crossing("fit", "train") == ((), ("epoch", "train"))
    assert life.crossing("train", "valid") == (("train",), ("valid",))
    assert life.crossing("valid", "epoch") == (("valid", "epoch"), ("epoch",))
    assert life.crossing("train", "train") == (("train",), ("train",))
    assert life.crossing("train", "end") == (("train", "epoch", "fit"), ("end",))
    assert life.path("train") == ("fit", "epoch", "train")


def test_labels_are_written_as_in_uml():
    "An arrow says `event [guard] / effect`, and nothing if it is plain."
    assert str(Transition("a", "b", more, work, SkipBatch)) == "a -> b SkipBatch [more] / work"
    assert str(Transition("a", "b")) == "a -> b"


def test_a_part_that_cannot_be_hashed():
    """An action whose class is mutable and compared by value is refused when the lifecycle is made, with the remedy."""

    @attrs.define
    class Mutable:
        n: int = 0

        def __call__(self, ctx):
            pass

    with pytest.raises(
        LifecycleError,
        match=r"own: State a: unhashable type: 'Mutable'; .* is a frozen attrs class",
    ):
        Lifecycle("own", [State("a", Mutable()), State("z", final=True)], [Transition("a", "z")])


def test_a_final_state_is_no_anchor():
    "A run that has ended cannot be resumed, so saving it there would promise what cannot be."
    with pytest.raises(LifecycleError, match="final state 'end' is an anchor, and a run that has"):
        Lifecycle(
            "small",
            [State("work", print), State("end", final=True, anchor=True)],
            [Transition("work", "end")],
        )
