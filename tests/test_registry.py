"""Lifecycles as plain data: JSON and back, fingerprints, differences in words."""

import json
import math
import re
import subprocess
import sys
from functools import partial

import attrs
import pytest
from hypothesis import given, settings
from strategies import EVENTS, Answering, Breaking, Played, Switch, lifecycles

from statetrain.errors import LifecycleError
from statetrain.events import Event, SkipBatch, StopFit
from statetrain.guards.base import Guard, guard
from statetrain.guards.clock import TimeLimit
from statetrain.guards.counters import Every, MaxSteps, more_epochs
from statetrain.guards.history import EarlyStopping, Threshold
from statetrain.lifecycle.difference import diff
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.registry import fingerprint, to_dict
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.naming import identify
from statetrain.standard.computing import Compute
from statetrain.standard.looping import evaluation, prediction
from statetrain.standard.reading import from_dict, standard
from statetrain.standard.supervised import supervised

# The same examples each time, whatever the load
drawn = settings(derandomize=True, database=None, deadline=None)


def work(ctx):
    "work"


def other_work(ctx):
    "other work"


@guard(reads={"step"})
def often(ctx):
    "often"
    return False


@attrs.frozen
class Wait:
    """An action with parameters."""

    seconds: float
    _why: str = ""
    names: frozenset[str] = frozenset()
    then: object = None

    def __call__(self, ctx):
        """Waits."""

    def method(self, ctx):
        """No function of its own."""


@attrs.frozen
class Mine(Guard):
    """A guard of a user's own."""

    limit: float
    inner: Guard | None = None

    @property
    def label(self):
        return f"mine {self.limit}"


class MyEvent(Event):
    """An event of a user's own."""


OURS = {identify(thing): thing for thing in (work, other_work, Wait, Mine, MyEvent)} | {
    identify(often.function): often
}
DRAWN = {identify(kind): kind for kind in (Played, Breaking, Answering, Switch, *EVENTS)}


def demo(action=work, guard=often, effect=None, event=MyEvent, **options):
    return Lifecycle(
        "demo",
        [
            State("a", action, **options),
            State("b", work, "a", anchor=True),
            State("end", final=True),
        ],
        [
            Transition("a", "b"),
            Transition("b", "b", guard, effect),
            Transition("b", "end"),
            Transition("a", "end", event=event),
        ],
        also=frozenset({"valid"}),
    )


def again(life, registry=OURS):
    """Into JSON and back."""
    return from_dict(json.loads(json.dumps(to_dict(life), allow_nan=False)), registry)


STANDARD = [
    supervised(),
    supervised(
        stop=EarlyStopping(patience=3, mode="max") | TimeLimit(hours=2),
        non_finite="skip",
        accumulate=3,
        validate=Every(3, "steps"),
    ),
    supervised(
        optimizers=2,
        max_steps=7,
        min_epochs=2,
        stop=Threshold("valid_loss", 0.1),
        check_gradients=True,
        non_finite="stop",
    ),
    evaluation(),
    prediction(),
]

# ---------------------------------------------------------------- into JSON and back


@pytest.mark.parametrize(
    "life", STANDARD, ids=["plain", "options", "optimizers", "evaluation", "prediction"]
)
def test_the_standard_lifecycles_need_no_registry(life):
    "What the library is made of is known by name."
    assert again(life, None) == life
    assert again(life, None).also == life.also


@drawn
@given(lifecycles())
def test_into_json_and_back_is_the_identity(life):
    "Any lifecycle whose parts have names comes back equal, with an equal fingerprint."
    back = again(life, DRAWN)
    assert back == life
    assert fingerprint(back) == fingerprint(life)
    assert diff(life, back) == []


@pytest.mark.parametrize(
    "life",
    [
        demo(),
        demo(action=Wait(1.5, "because", frozenset({"x", "y"}), then=work)),
        demo(action=Wait(math.inf), guard=Mine(-math.inf, ~often & Every(2, "steps"))),
        demo(guard=(often | more_epochs).named("either") & ~Mine(3)),
        demo(effect=Wait(0), event=KeyboardInterrupt),
        demo(close=other_work, reopen=work, mode=Switch("a")),
        demo(action=None),
    ],
    ids=["functions", "value", "infinity", "combination", "event", "scope", "nothing"],
)
def test_parts_of_ones_own(life):
    "Functions, guards, values with parameters and events of a user's own come back through the registry."
    back = again(life, OURS | DRAWN)
    assert back == life
    assert back.also == {"valid"}


def test_a_guard_made_of_a_function_may_be_registered_as_either():
    "The name of a decorated function stands for the guard, or for the function itself."
    plain = demo(guard=other_work)
    assert again(plain) == plain
    assert again(demo(), OURS | {identify(often.function): often}) == demo()
    back = again(demo(), OURS | {identify(often.function): often.function})
    assert back.arrows("b")[0].guard.function is often.function


def test_what_a_file_looks_like():
    "Names, parameters and nothing else; what has its default value is left out."
    assert to_dict(demo(action=Wait(2, then=work), effect=work)) == {
        "format": 1,
        "name": "demo",
        "initial": "a",
        "states": [
            {
                "name": "a",
                "action": {
                    "is": "test_registry:Wait",
                    "seconds": 2,
                    "why": "",
                    "names": {"is": "frozenset", "items": []},
                    "then": {"is": "test_registry:work"},
                },
            },
            {"name": "b", "action": {"is": "test_registry:work"}, "within": "a", "anchor": True},
            {"name": "end", "final": True},
        ],
        "transitions": [
            {"source": "a", "dest": "b"},
            {
                "source": "b",
                "dest": "b",
                "guard": {"is": "test_registry:often"},
                "effect": {"is": "test_registry:work"},
            },
            {"source": "b", "dest": "end"},
            {"source": "a", "dest": "end", "event": "test_registry:MyEvent"},
        ],
        "also": ["valid"],
    }


def test_methods_of_a_lifecycle():
    "A lifecycle writes, reads and fingerprints itself."
    assert Lifecycle.from_dict(demo().to_dict(), OURS) == demo()
    assert demo().fingerprint == fingerprint(demo())


def closure():
    def inner(ctx):
        """Has no name of its own."""

    return inner


@pytest.mark.parametrize(
    "nameless",
    [
        lambda ctx: None,
        closure(),
        partial(work),
        Wait(1).method,
        Wait(1, then=b"bytes"),
        Wait(1, then=Wait),
        Wait(1, then=lambda ctx: None),
    ],
    ids=["lambda", "closure", "partial", "method", "bytes", "class", "inside"],
)
def test_parts_without_a_name_are_refused(nameless):
    "What nobody could name in a file is refused, with its place and what to do."
    with pytest.raises(LifecycleError, match=r"demo: State 'a' cannot be written down: ") as error:
        to_dict(demo(action=nameless))
    assert re.search("write (it as a function|an attrs class)|neither plain data", str(error.value))
    with pytest.raises(LifecycleError, match=re.escape("demo: arrow b -> b [often] / ")):
        fingerprint(demo(effect=nameless))


def test_a_guard_without_a_name_is_refused():
    "A lambda is a guard, but none that can be named."
    with pytest.raises(
        LifecycleError, match=re.escape("demo: arrow b -> b [<lambda>] cannot be written down")
    ):
        to_dict(demo(guard=lambda ctx: True))


# ---------------------------------------------------------------- reading what is wrong


def changed(where, value):
    """The data of a lifecycle with one thing in it changed, or taken out."""
    data = to_dict(demo())
    *way, last = where
    place = data
    for key in way:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (["name"], KeyError, "a lifecycle: 'name' is missing, got 'format', 'initial', 'states'"),
        (["states"], KeyError, "a lifecycle: 'states' is missing"),
        (["states"], {"a": 1}, "a lifecycle: states must be a list, got dict"),
        (["initail"], "a", "a lifecycle: unknown key 'initail'; did you mean 'initial'?"),
        (["initial"], 3, "a lifecycle: initial must be a str, got int: 3"),
        (["initial"], "c", "demo: the initial state 'c' is unknown"),
        (["format"], 2, "lifecycle 'demo' is written in format 2; this version reads 1"),
        (["also"], [3], "lifecycle 'demo': also: names of states are expected, got [3]"),
        (
            ["states", 0],
            "a",
            "lifecycle 'demo': states[0] is written as a mapping with name; got str: 'a'",
        ),
        (
            ["states", 0, "name"],
            KeyError,
            "lifecycle 'demo': states[0]: 'name' is missing, got 'action'",
        ),
        (["states", 0, "name"], None, "states[0]: name must be a str, got NoneType: None"),
        (["states", 1, "withn"], "a", "states[1]: unknown key 'withn'; did you mean 'within'?"),
        (["states", 1, "within"], "x", "demo: State 'b': unknown scope 'x'"),
        (["states", 1, "anchor"], "yes", "states[1]: anchor must be a bool, got str: 'yes'"),
        (
            ["states", 1, "action"],
            "test_registry:work",
            "states[1]: action must be a dict, got str",
        ),
        (
            ["states", 1, "action"],
            {"name": "work"},
            (
                "states[1]: action: a function or a value says by name what it 'is', got {'name':"
                " 'work'}"
            ),
        ),
        (
            ["states", 1, "action"],
            {"is": "test_registry:wrok"},
            (
                "states[1]: action: unknown name 'test_registry:wrok'; did you mean"
                " 'test_registry:work'?"
            ),
        ),
        (
            ["states", 1, "action"],
            {"is": "os:system"},
            (
                "unknown name 'os:system'. Only a registry says what a name stands for; pass"
                " registry={'os:system': ...}"
            ),
        ),
        (
            ["states", 1, "action"],
            {"is": "test_registry:work", "n": 1},
            "action: test_registry:work is not a value with parameters, got 'n'",
        ),
        (
            ["states", 1, "action"],
            {"is": "test_registry:Wait"},
            "action: test_registry:Wait cannot be made with {}: ",
        ),
        (
            ["states", 1, "action"],
            {"is": "test_registry:Wait", "second": 1},
            "test_registry:Wait cannot be made with {'second': 1}: ",
        ),
        (
            ["states", 1, "action"],
            {"is": "test_registry:Wait", "seconds": {"is": "float", "value": "x"}},
            "float cannot be made with {'value': 'x'}",
        ),
        (
            ["states", 1, "action"],
            {"is": "statetrain.standard.modes:Quiet"},
            "states[1]: action must be a function of the context, got Quiet()",
        ),
        (
            ["transitions", 1, "source"],
            KeyError,
            "lifecycle 'demo': transitions[1]: 'source' is missing",
        ),
        (
            ["transitions", 1, "guard"],
            {"is": "statetrain.guards.counters:MaxSteps", "n": 0},
            "MaxSteps: n must be a whole number of at least 1, got 0",
        ),
        (
            ["transitions", 1, "guard"],
            {"is": "test_registry:MyEvent"},
            "a guard is a function of the context or a Guard",
        ),
        (
            ["transitions", 3, "event"],
            "test_registry:MyEvnt",
            (
                "transitions[3]: event: unknown name 'test_registry:MyEvnt'; did you mean"
                " 'test_registry:MyEvent'?"
            ),
        ),
        (
            ["transitions", 3, "event"],
            "test_registry:work",
            "demo: arrow a -> end: event must be a class of exception",
        ),
        (
            ["transitions", 2, "dest"],
            "ned",
            "demo: arrow b -> ned: unknown state 'ned'; did you mean 'end'?",
        ),
    ],
)
def test_malformed_data(where, value, words):
    "What is wrong is said with its place; what a table may not be is said as ever."
    with pytest.raises(LifecycleError) as error:
        from_dict(changed(where, value), OURS)
    assert words in str(error.value)


@pytest.mark.parametrize("data", [None, [], "demo", 3], ids=repr)
def test_what_is_no_lifecycle_at_all(data):
    "Anything but a mapping is refused."
    with pytest.raises(
        LifecycleError,
        match="a lifecycle is written as a mapping with name, states, transitions; got",
    ):
        from_dict(data)


def test_none_stands_for_what_is_not_there():
    "A hand-written file may say null."
    data = to_dict(demo())
    data["states"][0] |= {"within": None, "mode": None}
    data["transitions"][0] |= {"guard": None, "event": None}
    assert from_dict(data, OURS) == demo()


def test_a_name_imports_nothing():
    "Reading a file with the name of a module that is there does not import it."
    code = (
        "import sys\nfrom statetrain.standard.reading import from_dict\ntry: from_dict({'name':"
        " 'x', 'states': [{'name': 'a', 'action': {'is': 'wave:open'}}], 'transitions':"
        " []})\nexcept ValueError as error: print(error)\nprint([name for name in ('wave', 'torch')"
        " if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "unknown name 'wave:open'" in out
    assert out.endswith("[]\n")


def test_the_standard_registry_cannot_be_changed():
    "One file's registry is nobody else's, and it may not change the library's."
    with pytest.raises(TypeError):
        standard()["x"] = work
    again(demo())
    with pytest.raises(LifecycleError, match="unknown name 'test_registry:work'"):
        again(demo(), None)


# ---------------------------------------------------------------- fingerprints


def test_a_fingerprint_stays_the_same():
    "16 hexadecimal digits, the same on every machine and in every version that writes this format."
    assert fingerprint(demo()) == "2ad972f710a3fd07"


def test_what_a_fingerprint_counts():
    "States, their fields, arrows, their order and every parameter count."
    others = [
        demo(action=other_work),
        demo(action=None),
        demo(guard=MaxSteps(3)),
        demo(guard=MaxSteps(4)),
        demo(guard=often.named("seldom")),
        demo(effect=work),
        demo(event=StopFit),
        demo(close=work),
        demo().replace("b", anchor=False),
        demo().without("b"),
        demo().add(Transition("b", "end", MaxSteps(3))),
        demo().add(Transition("b", "end", MaxSteps(3)), first=True),
    ]
    prints = [fingerprint(life) for life in (demo(), *others)]
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in prints)


def test_what_a_fingerprint_does_not_count():
    "The lifecycle's own name, the names that hooks may mention, and the sort of number that a parameter is."
    assert fingerprint(attrs.evolve(demo(), name="other", also=frozenset())) == fingerprint(demo())
    assert fingerprint(demo(guard=TimeLimit(30))) == fingerprint(demo(guard=TimeLimit(30.0)))
    assert fingerprint(demo(action=Wait(1, names=frozenset("abc")))) == fingerprint(
        demo(action=Wait(1, names=frozenset("cba")))
    )


@settings(drawn, max_examples=40)
@given(lifecycles(), lifecycles())
def test_equal_fingerprints_mean_equal_tables(one, other):
    "Two tables have the same fingerprint if and only if they are equal."
    assert (fingerprint(one) == fingerprint(other)) == (one == other)


# ---------------------------------------------------------------- differences


@settings(drawn, max_examples=40)
@given(lifecycles(max_states=4), lifecycles(max_states=4))
def test_there_is_a_difference_if_and_only_if_they_differ(one, other):
    "Equal lifecycles have none, and any others have at least one, in both directions."
    assert bool(diff(one, other)) == bool(diff(other, one)) == (one != other)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (demo(), []),
        (attrs.evolve(demo(), also=frozenset()), []),
        (attrs.evolve(demo(), name="other"), ["the name: was 'demo', is 'other'"]),
        (
            demo(action=other_work),
            ["state 'a': action was test_registry.work, is test_registry.other_work"],
        ),
        (demo(action=None), ["state 'a': action was test_registry.work, is None"]),
        (demo().replace("b", anchor=False), ["state 'b': anchor was True, is False"]),
        (demo(guard=MaxSteps(3)), ["arrow b -> b [often]: guard was [often], is [3 steps made]"]),
        (demo(guard=~often), ["arrow b -> b [often]: guard was [often], is [not often]"]),
        (demo(effect=work), ["arrow b -> b [often]: effect was None, is test_registry.work"]),
        (
            demo(event=StopFit),
            ["arrow a -> end MyEvent removed", "arrow a -> end StopFit added"],
        ),
        (
            demo().insert(State("c", work), between=("b", "end")),
            [
                "state 'c' added",
                "arrow b -> end removed",
                "arrow b -> c added",
                "arrow c -> end added",
            ],
        ),
        (
            demo()
            .add(Transition("b", "end", MaxSteps(3)))
            .add(
                State("c", work, "a"), Transition("b", "c", Every(2, "steps")), Transition("c", "b")
            ),
            [
                "state 'c' added within 'a'",
                "arrow b -> end [3 steps made] added",
                "arrow b -> c [every 2 steps] added",
                "arrow c -> b added",
            ],
        ),
        (
            attrs.evolve(demo(), states=demo().states[::-1], initial="a"),
            ["the states are listed in another order: end, b, a"],
        ),
        (
            attrs.evolve(demo(), transitions=[*demo().transitions[1:], demo().transitions[0]]),
            ["the arrows out of 'a' are in another order: a -> end MyEvent; a -> b"],
        ),
        (
            attrs.evolve(
                demo(),
                transitions=[
                    *demo().transitions[1:3],
                    demo().transitions[0],
                    demo().transitions[3],
                ],
            ),
            ["the arrows of different states are listed in another order"],
        ),
    ],
)
def test_differences_in_words(after, words):
    "What was added, removed, changed and reordered, each in one line."
    assert diff(demo(), after) == words


def test_where_a_run_starts():
    "Another initial state is a difference, and another table."
    states = [State("a", work), State("b", work), State("end", final=True)]
    arrows = [
        Transition("a", "b", often),
        Transition("a", "end"),
        Transition("b", "a", often),
        Transition("b", "end"),
    ]
    one, other = Lifecycle("x", states, arrows), Lifecycle("x", states, arrows, "b")
    assert diff(one, other) == ["the initial state: was 'a', is 'b'"]
    assert fingerprint(one) != fingerprint(other)
    assert again(other) == other


def test_removed_states():
    "A state that is gone is named with the arrows that went with it."
    assert diff(demo(), demo().without("b")) == [
        "state 'b' removed",
        "arrow a -> b removed",
        "arrow a -> end added",
        "arrow b -> b [often] removed",
        "arrow b -> end removed",
    ]


def test_reordered_arrows():
    "The order in which arrows are asked counts."
    before = demo().add(Transition("b", "end", MaxSteps(3)))
    assert diff(before, before.reorder("b", ["end", "b", "end"])) == [
        (
            "the arrows out of 'b' are in another order: b -> end [3 steps made]; b -> b [often]; b"
            " -> end"
        )
    ]


def test_guards_of_one_name_that_differ():
    "Guards that are called alike are told apart by what they are made of, and functions by themselves."
    assert diff(demo(guard=MaxSteps(3).named("now")), demo(guard=MaxSteps(4).named("now"))) == [
        "arrow b -> b [now]: guard was [now: 3 steps made], is [now: 4 steps made]"
    ]
    [word] = diff(demo(effect=lambda ctx: None), demo(effect=lambda ctx: None))
    assert re.search("effect was <function .*>, is <function .*>", word)


def test_a_difference_needs_no_names():
    "Lifecycles that could not be written down can be compared."
    assert diff(demo(), demo(action=closure())) == [
        "state 'a': action was test_registry.work, is test_registry.closure.<locals>.inner"
    ]


def test_a_function_that_computes_is_a_parameter():
    "A user's function inside a value is named like any other."
    life = supervised(compute=other_work)
    assert again(life) == life
    assert life.state("compute").action == Compute(other_work)


def test_an_event_that_python_brings():
    "Python's own exceptions are known without a registry."
    life = supervised().add(Transition("fit", "end", event=MemoryError))
    assert again(life, None) == life
    assert SkipBatch in standard().values()
