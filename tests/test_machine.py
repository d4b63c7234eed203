"""The machine: what is called, in which order, on every way through a table, and what is said when something goes wrong."""

import gc
import re

import pytest
from attrs import define, evolve, field, frozen
from hypothesis import given, settings
from strategies import scenarios

from statetrain.callback import Callback
from statetrain.context.position import Position
from statetrain.errors import CallbackError, GuardError, LifecycleError, MachineError
from statetrain.events import Event, SkipBatch, SkipEpoch, StopFit
from statetrain.guards.base import guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.lifecycle.transition import Transition
from statetrain.machine.machine import Machine
from statetrain.outcome import Completed, Failed, Interrupted, Stopped

# The same examples each time, whatever the load
drawn = settings(derandomize=True, database=None, deadline=None)


@define(eq=False)
class Ctx(Position):
    """A context that records what is called; what a call does is said by its name."""

    calls: list[str] = field(factory=list)
    does: dict[str, object] = field(factory=dict)
    answers: dict[str, list[object]] = field(factory=dict)
    switch: str = "outside"

    def call(self, name):
        self.calls.append(name)
        deed = self.does.get(name)
        if isinstance(deed, type) and issubclass(deed, BaseException):
            raise deed
        if isinstance(deed, BaseException):
            raise deed
        return deed(self) if callable(deed) else deed

    def where(self):
        return "batch 3"


@frozen
class Do:
    """An action, an effect or close work."""

    name: str

    @property
    def label(self):
        return self.name

    def __call__(self, ctx):
        return ctx.call(self.name)


def once(error):
    """Raises the first time that it is called."""
    errors = [error]

    def deed(ctx):
        if errors:
            raise errors.pop()

    return deed


def broken_disk():
    raise OSError("disk full")


def asks(name):
    """A guard that answers from the context's list, then False."""

    @guard
    def answer(ctx):
        ctx.call(f"[{name}]")
        answers = ctx.answers.get(name, [])
        return answers.pop(0) if answers else False

    return answer.named(name)


class Watch(Callback):
    """Listens everywhere."""

    def __init__(self, life, name=""):
        for hook in [
            *(f"on_{when}_{state}" for state in life.names for when in ("enter", "exit")),
            "on_enter_failed",
        ]:
            setattr(self, hook, Do(name + hook.removeprefix("on_").replace("_", " ", 1)))


MORE = asks("more")
BAD = asks("bad")

LIFE = Lifecycle(
    "demo",
    [
        State("fit", Do("do fit"), close=Do("close fit")),
        State("head", within="fit", anchor=True),
        State("batch", Do("do batch"), "fit", close=Do("close batch")),
        State("pred", Do("do pred"), "batch"),
        State("loss", Do("do loss"), "batch"),
        State("end", Do("do end"), final=True),
    ],
    [
        Transition("fit", "head"),
        Transition("head", "batch", MORE, Do("count")),
        Transition("head", "end", effect=Do("say why")),
        Transition("batch", "pred"),
        Transition("pred", "loss"),
        Transition("loss", "batch", BAD, Do("again")),
        Transition("loss", "head"),
        Transition("batch", "head", effect=Do("discard"), event=SkipBatch),
        Transition("fit", "end", effect=Do("say why"), event=StopFit),
        Transition("fit", "end", effect=Do("interrupted"), event=KeyboardInterrupt),
    ],
)


def run(life=LIFE, callbacks=None, does=None, answers=None, **options):
    """The context after a run, watched everywhere."""
    ctx = Ctx(does=does or {}, answers=answers or {})
    return Machine(life, [Watch(life)] if callbacks is None else callbacks, **options).run(ctx)


def failing(life=LIFE, callbacks=None, does=None, answers=None):
    """The context and the error of a run that fails, and its notes in one text."""
    ctx = Ctx(does=does or {}, answers=answers or {})
    with pytest.raises(BaseException) as raised:  # noqa: PT011  # each test says which
        Machine(life, [Watch(life)] if callbacks is None else callbacks).run(ctx)
    return ctx, raised.value, "\n".join(getattr(raised.value, "__notes__", []))


# ---------------------------------------------------------------- order


def test_the_order_of_one_round():
    "Left, innermost first: exit hooks, close work. Then the effect. Entered, outermost first: enter hooks, action."
    assert run(answers={"more": [True]}).calls == [
        *("enter fit", "do fit", "enter head", "[more]"),
        *("exit head", "count", "enter batch", "do batch", "enter pred", "do pred"),
        *("exit pred", "enter loss", "do loss", "[bad]"),
        *("exit loss", "exit batch", "close batch", "enter head", "[more]"),
        *("exit head", "exit fit", "close fit", "say why", "enter end", "do end"),
    ]


def test_a_scope_that_is_led_to_while_open_is_reopened():
    "Going to an open scope closes it, with all that is inside, and opens it again."
    log = run(answers={"more": [True], "bad": [True]}).calls
    at = log.index("again")
    assert log[at - 4 : at + 4] == [
        "[bad]",
        "exit loss",
        "exit batch",
        "close batch",
        "again",
        "enter batch",
        "do batch",
        "enter pred",
    ]


def test_scopes_are_opened_on_the_way():
    "Going to a state inside closed scopes opens them, outermost first, and asks only the innermost what comes next."
    life = Lifecycle(
        "demo",
        [
            State("a"),
            State("x", Do("do x")),
            State("y", Do("do y"), "x"),
            State("z", Do("do z"), "y"),
            State("end", final=True),
        ],
        [Transition("a", "z", effect=Do("go")), Transition("z", "end")],
    )
    assert run(life).calls == [
        *("enter a", "exit a", "go", "enter x", "do x", "enter y", "do y", "enter z", "do z"),
        *("exit z", "exit y", "exit x", "enter end"),
    ]


def test_guards_are_asked_in_order_up_to_the_first_that_holds():
    "What stands behind an arrow that is taken is not asked."
    life = LIFE.add(
        Transition("head", "end", asks("stop")),
        Transition("head", "fit", asks("restart")),
        before=LIFE.between("head", "batch")[0],
    )
    assert [
        call
        for call in run(life, [], answers={"restart": [True], "more": [True]}).calls
        if call[0] == "["
    ] == [
        *("[stop]", "[restart]", "[stop]", "[restart]", "[more]"),
        *("[bad]", "[stop]", "[restart]", "[more]"),
    ]


def test_callbacks_are_called_in_the_order_in_which_they_were_given():
    "Each hook of one callback, then that of the next."
    log = run(callbacks=[Watch(LIFE, "1 "), Watch(LIFE, "2 ")]).calls
    assert log[:4] == ["1 enter fit", "2 enter fit", "do fit", "1 enter head"]
    assert log[-3:] == ["1 enter end", "2 enter end", "do end"]


def test_every_enter_has_its_exit():
    "On every path but failure, what is entered is left, once; a final state is not left."
    for does, answers in (
        ({}, {"more": [True, True], "bad": [True]}),
        ({"do loss": SkipBatch}, {"more": [True] * 2}),
        ({"do pred": StopFit}, {"more": [True]}),
    ):
        log = run(does=does, answers=answers).calls
        open_states = []
        for call in log:
            word, _, state = call.partition(" ")
            if word == "enter":
                open_states.append(state)
            elif word == "exit":
                assert open_states.pop() == state
        assert open_states == ["end"]


def test_what_is_published_while_something_is_called():
    "`ctx.transition` is the arrow being taken; `ctx.state` the active state, and from its own enter hook on, the one entered."
    seen = []

    class Look(Callback):
        def look(self, ctx):
            seen.append((ctx.state, str(ctx.transition)))

        on_enter_fit = on_exit_head = on_exit_fit = on_enter_batch = on_enter_pred = (
            on_exit_batch
        ) = on_enter_end = on_transition = look

    run(callbacks=[Look()], answers={"more": [True]})
    into, out, end = "head -> batch [more] / count", "loss -> head", "head -> end / say why"
    assert seen == [
        *(("[*]", "[*] -> fit"), ("fit", "[*] -> fit"), ("fit", "fit -> head")),
        *(
            ("head", into),
            ("head", into),
            ("batch", into),
            ("batch", "batch -> pred"),
            ("pred", "batch -> pred"),
        ),
        *(("pred", "pred -> loss"), ("loss", out), ("loss", out)),
        *(("head", end), ("head", end), ("head", end), ("end", end)),
    ]


def test_a_run_that_ends_by_itself_is_completed():
    "The outcome says so, unless an effect said otherwise."
    ctx = run(callbacks=[])
    assert (ctx.outcome, ctx.state, ctx.error) == (Completed(), "end", None)

    def stop(ctx):
        ctx.outcome = Stopped(3, "enough")

    assert run(callbacks=[], does={"say why": stop}).outcome == Stopped(3, "enough")


def test_one_machine_serves_many_runs():
    "What a run changes is in its context."
    machine = Machine(LIFE)
    first, second = Ctx(answers={"more": [True]}), Ctx(answers={"more": [True]})
    machine.run(first)
    machine.run(second)
    assert first.calls == second.calls
    assert machine.run(first) is first
    assert first.calls[len(second.calls) :] == machine.run(Ctx()).calls


# ---------------------------------------------------------------- events


def test_an_event_takes_its_arrow():
    "The states inside the arrow's source are left as ever, the effect is done, and the event is published."
    ctx = run(does={"do pred": SkipBatch("bad batch")}, answers={"more": [True]})
    at = ctx.calls.index("do pred")
    assert ctx.calls[at : at + 6] == [
        "do pred",
        "exit pred",
        "exit batch",
        "close batch",
        "discard",
        "enter head",
    ]
    assert repr(ctx.event) == "SkipBatch('bad batch')"
    assert ctx.outcome == Completed()


def test_the_innermost_scope_takes_an_event():
    "The same event is taken by the nearest scope around the state that raised it."
    life = LIFE.add(Transition("batch", "head", effect=Do("inner"), event=StopFit))
    assert "inner" in run(life, does={"do loss": StopFit}, answers={"more": [True]}).calls
    assert "inner" not in run(life, does={"do fit": StopFit}).calls


def test_a_wider_event_takes_a_narrower_one():
    "An arrow for a class takes its subclasses, and other exceptions than events too."

    class Own(StopFit):
        pass

    assert run(does={"do loss": Own}, answers={"more": [True]}).calls[-1] == "do end"
    life = LIFE.add(Transition("loss", "head", effect=Do("caught"), event=ArithmeticError))
    ctx = run(life, does={"do loss": ZeroDivisionError("x")}, answers={"more": [True]})
    assert "caught" in ctx.calls
    assert ctx.outcome == Completed()
    assert repr(ctx.event) == "ZeroDivisionError('x')"


def test_an_event_whose_guard_is_false_goes_on_to_the_next():
    "A guard on an event's arrow is asked when the event comes."
    life = LIFE.add(Transition("loss", "head", asks("take it"), Do("taken"), event=StopFit))
    assert (
        "taken"
        in run(life, does={"do loss": StopFit}, answers={"more": [True], "take it": [True]}).calls
    )
    assert "taken" not in run(life, does={"do loss": StopFit}, answers={"more": [True]}).calls


@pytest.mark.parametrize(
    ("call", "entered"),
    [
        ("enter batch", ["enter batch"]),
        ("do batch", ["enter batch", "do batch"]),
        ("enter pred", ["enter batch", "do batch", "enter pred"]),
    ],
)
def test_events_from_enter_hooks_and_actions(call, entered):
    "The state counts as entered from its first enter hook on, so it is left; what would come after is not called."
    log = run(does={call: SkipBatch}, answers={"more": [True]}).calls
    at, until = log.index("count"), log.index("discard")
    left = ["exit pred"] * ("pred" in call) + ["exit batch", "close batch"]
    assert log[at + 1 : until] == entered + left


_ASK = "Here, call ctx.request_stop(reason)"


@pytest.mark.parametrize(
    ("call", "culprit", "instead"),
    [
        (
            "exit head",
            "the hook Watch.on_exit_head",
            "Raise it in on_enter_batch, which comes next",
        ),
        ("count", "the effect of head -> batch [more] / count", _ASK),
        ("close batch", "the close work of 'loss'", _ASK),
        ("[more]", "the guard [more] of head -> batch", _ASK),
    ],
)
def test_events_from_anywhere_else_are_an_error(call, culprit, instead):
    "Exit hooks, effects, close work and guards may not raise events; the error names who did and what to call instead."
    ctx, error, notes = failing(does={call: SkipBatch("no")}, answers={"more": [True]})
    assert isinstance(error, LifecycleError)
    assert "demo: SkipBatch was raised by " in str(error)
    assert culprit in str(error)
    assert f"actions and enter hooks only. {instead}" in str(error)
    assert repr(error.__cause__) == "SkipBatch('no')"
    assert ctx.state == FAILED
    assert "demo" in notes


def test_an_event_that_no_scope_takes():
    "The run fails, and the error lists the scopes that were searched and the arrow that is missing."
    _, error, _ = failing(does={"do loss": SkipEpoch}, answers={"more": [True]})
    assert isinstance(error, LifecycleError)
    assert (
        str(error) == "demo: no open scope takes SkipEpoch (searched 'loss', 'batch', 'fit'); add"
        " Transition(<scope>, <dest>, event=SkipEpoch)"
    )
    assert isinstance(error.__cause__, SkipEpoch)


def test_an_event_of_ones_own():
    "Any subclass of Event with an arrow of its own."

    class Rewind(Event):
        pass

    life = LIFE.add(Transition("batch", "fit", effect=Do("rewind"), event=Rewind))
    log = run(life, does={"do pred": once(Rewind())}, answers={"more": [True]}).calls
    assert log.count("do fit") == 2
    assert "rewind" in log


def test_events_can_come_again_and_again():
    "Taking an event leaves nothing behind that would stop the next."
    log = run(callbacks=[], does={"do pred": SkipBatch}, answers={"more": [True] * 50}).calls
    assert log.count("discard") == 50


# ---------------------------------------------------------------- interrupts


@pytest.mark.parametrize(
    "call", ["do loss", "enter pred", "exit pred", "count", "[bad]", "close batch"]
)
def test_an_interrupt_is_taken_wherever_it_comes(call):
    "A person may interrupt anywhere, not only where events are allowed; what is still open is left, by the arrow that says so."
    ctx = run(does={call: once(KeyboardInterrupt())}, answers={"more": [True]})
    assert ctx.calls[-5:] == ["exit fit", "close fit", "interrupted", "enter end", "do end"]
    assert [ctx.calls.count(f"exit {state}") for state in ("fit", "head", "batch")].count(
        1
    ) == 3 - (call == "count")
    assert ctx.outcome == Interrupted(0, "KeyboardInterrupt")


def test_an_interrupt_while_the_last_scope_is_left():
    "No scope is open that could take it, so it fails the run."
    ctx, error, _ = failing(does={"exit fit": once(KeyboardInterrupt())})
    assert type(error) is KeyboardInterrupt
    assert ctx.outcome == Failed(0, "head", error)


def test_an_interrupt_that_no_arrow_takes():
    "Without an arrow it fails the run like any exception."
    ctx, error, _ = failing(
        LIFE.remove(*LIFE.between("fit", "end")),
        does={"do loss": KeyboardInterrupt},
        answers={"more": [True]},
    )
    assert type(error) is KeyboardInterrupt
    assert ctx.outcome == Failed(0, "loss", error)


# ---------------------------------------------------------------- failure


def test_a_failure_leaves_nothing_and_tells_who_listens():
    "No exit hooks, no close work, no effects: `on_enter_failed` comes next, with the error published, and nothing after it."
    original = ValueError("bad")
    seen = []

    class Look(Callback):
        def on_enter_failed(self, ctx):
            seen.append((ctx.state, ctx.error, ctx.outcome))

    ctx, error, _ = failing(
        callbacks=[Watch(LIFE), Look()], does={"do pred": original}, answers={"more": [True]}
    )
    assert error is original
    assert ctx.calls[-2:] == ["do pred", "enter failed"]
    assert seen == [(FAILED, original, Failed(0, "pred", original))]
    assert (ctx.state, ctx.error, ctx.outcome) == seen[0]
    assert not ctx.outcome.ok


def test_the_original_error_is_raised_unchanged():
    "The same object, with its arguments, its cause and its traceback into the code that raised it."

    def explode(ctx):
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer", 3) from inner

    _, error, _ = failing(does={"do pred": explode}, answers={"more": [True]})
    assert error.args == ("outer", 3)
    assert isinstance(error.__cause__, KeyError)
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert places[-1] == "explode"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("do pred", "in state 'pred' of lifecycle 'demo', batch 3; raised by the action of 'pred'"),
        (
            "enter pred",
            "in state 'pred' of lifecycle 'demo', batch 3; raised by the hook Watch.on_enter_pred",
        ),
        (
            "exit head",
            "in state 'head' of lifecycle 'demo', batch 3; raised by the hook Watch.on_exit_head",
        ),
        (
            "close batch",
            "in state 'loss' of lifecycle 'demo', batch 3; raised by the close work of 'loss'",
        ),
        (
            "count",
            (
                "in state 'head' of lifecycle 'demo', batch 3; raised by the effect of head ->"
                " batch [more] / count"
            ),
        ),
        (
            "[more]",
            (
                "in state 'head' of lifecycle 'demo', batch 3; raised by the guard [more] of head"
                " -> batch"
            ),
        ),
    ],
)
def test_the_note_says_where_and_who(call, words):
    "One note: the state, the lifecycle, where in the data, and whose work, hook or guard it was."
    _, error, notes = failing(does={call: ValueError("bad")}, answers={"more": [True]})
    assert isinstance(error, ValueError)
    assert len(error.__notes__) == 1
    assert notes.startswith(f"statetrain: {words}")


def test_an_arrow_to_failed():
    "The effect raises the error, nothing is left, and the run fails with what happened still in place."
    life = LIFE.edit(
        remove=LIFE.between("loss", "batch"),
        add=[Transition("loss", FAILED, BAD, Do("raise it"))],
    )
    ctx, error, notes = failing(
        life,
        does={"raise it": ArithmeticError("not finite")},
        answers={"more": [True], "bad": [True]},
    )
    assert str(error) == "not finite"
    assert ctx.calls[-4:] == ["do loss", "[bad]", "raise it", "enter failed"]
    assert ctx.outcome == Failed(0, "loss", error)
    assert "in state 'loss'" in notes


def test_an_arrow_to_failed_whose_effect_raises_nothing():
    "A failure without an error is a mistake in the table, and the message names the arrow."
    life = LIFE.edit(
        remove=LIFE.between("loss", "batch"),
        add=[Transition("loss", FAILED, BAD, Do("raise it"))],
    )
    _, error, _ = failing(life, answers={"more": [True], "bad": [True]})
    assert isinstance(error, LifecycleError)
    assert "loss -> failed [bad]" in str(error)
    assert "led to 'failed', but its effect raised no error; let it raise one" in str(error)


def test_a_misspelt_field_of_the_context():
    "Reading or setting a field that is not there names the nearest one in the note."
    for touch in (lambda ctx: ctx.swicth, lambda ctx: setattr(ctx, "swicth", 1)):
        _, error, notes = failing(does={"do pred": touch}, answers={"more": [True]})
        assert isinstance(error, AttributeError)
        assert "did you mean 'switch'?" in notes


def test_a_misspelt_field_of_something_else_is_not_the_contexts_business():
    "Only the context's own fields are suggested."
    _, error, notes = failing(
        does={"do pred": lambda ctx: ctx.calls.apend}, answers={"more": [True]}
    )
    assert isinstance(error, AttributeError)
    assert "did you mean" not in notes


def test_a_hook_that_raises_on_failure_does_not_hide_the_failure():
    "The first error is raised; what came after it is in its notes, and all hooks and clean-ups have run."
    ctx = Ctx(
        does={
            "do pred": ValueError("first"),
            "enter failed": RuntimeError("second"),
            "1 enter failed": KeyboardInterrupt,
        }
    )
    ctx.answers = {"more": [True]}
    ctx.defer(lambda: ctx.calls.append("cleaned"))
    ctx.defer(lambda: ctx.call("enter failed"))
    with pytest.raises(ValueError, match="first") as raised:
        Machine(LIFE, [Watch(LIFE, "1 "), Watch(LIFE)]).run(ctx)
    assert ctx.calls[-4:] == ["1 enter failed", "enter failed", "enter failed", "cleaned"]
    assert [note.split(": ", 2)[-1] for note in raised.value.__notes__[1:]] == [
        "KeyboardInterrupt()",
        *["RuntimeError('second')"] * 2,
    ]


def test_a_stop_iteration_never_ends_a_run():
    "A StopIteration of a user's is an error that names who raised it, never an end of data."
    for call, culprit in (
        ("do pred", "the action of 'pred'"),
        ("enter pred", "the hook Watch.on_enter_pred"),
        ("[more]", "the guard [more]"),
    ):
        ctx, error, _ = failing(does={call: StopIteration}, answers={"more": [True]})
        assert isinstance(error, MachineError)
        assert f"StopIteration was raised by {culprit}" in str(error)
        assert isinstance(error.__cause__, StopIteration)
        assert ctx.state == FAILED


def test_a_stop_iteration_may_be_an_event():
    "Who names it on an arrow means it."
    life = LIFE.add(Transition("batch", "head", effect=Do("ran out"), event=StopIteration))
    assert "ran out" in run(life, does={"do pred": StopIteration}, answers={"more": [True]}).calls


# ---------------------------------------------------------------- clean-ups


@pytest.mark.parametrize(
    "does",
    [{}, {"do loss": StopFit}, {"do loss": ValueError("bad")}, {"do loss": KeyboardInterrupt}],
    ids=["end", "event", "failure", "interrupt"],
)
def test_clean_ups_run_on_every_path(does):
    "The last registered first, after everything else, once."
    ctx = Ctx(does=does, answers={"more": [True]})
    ctx.defer(lambda: ctx.calls.append("first"))
    ctx.does["do batch"] = lambda ctx: ctx.defer(lambda: ctx.calls.append("second"))
    try:
        Machine(LIFE, [Watch(LIFE)]).run(ctx)
    except ValueError:
        pass
    assert ctx.calls[-3:] == [
        "enter failed" if ctx.state == FAILED else "do end",
        "second",
        "first",
    ]
    assert ctx.deferred == []


def test_all_clean_ups_run_though_one_raises():
    "Their error fails a run that had come to its end; several are raised together."
    for broken, kind in ((1, OSError), (2, BaseExceptionGroup)):
        ctx = Ctx()
        ctx.defer(lambda ctx=ctx: ctx.calls.append("cleaned"))
        for _ in range(broken):
            ctx.defer(broken_disk)
        with pytest.raises(kind) as raised:
            Machine(LIFE).run(ctx)
        assert ctx.calls[-1] == "cleaned"
        assert ctx.outcome == Failed(0, "end", raised.value)


def test_a_clean_up_may_register_another():
    "It is run as well."
    ctx = Ctx()
    ctx.defer(lambda: ctx.defer(lambda: ctx.calls.append("cleaned")))
    Machine(LIFE).run(ctx)
    assert ctx.calls[-1] == "cleaned"


# ---------------------------------------------------------------- modes


@frozen
class Switch:
    """A mode that sets the context's switch."""

    name: str

    def read(self, ctx):
        return ctx.switch

    def write(self, ctx, value):
        ctx.switch = value

    def begin(self, ctx):
        ctx.switch = self.name

    def wrap(self, action):
        def wrapped(ctx):
            ctx.calls.append(f"<{self.name}>")
            return action(ctx)

        return wrapped


MODAL = LIFE.replace("fit", mode=Switch("fit")).replace("batch", mode=Switch("batch"))


def switches(life=MODAL, **options):
    """What the switch was at each hook and action of a run, and afterwards."""
    seen = {}

    class Look(Callback):
        def __init__(self):
            for name in life.names:
                for when in ("enter", "exit"):
                    setattr(
                        self,
                        f"on_{when}_{name}",
                        lambda ctx, hook=f"{when} {name}": (
                            seen.setdefault(hook, ctx.switch) and None
                        ),
                    )

    ctx = Ctx(**options)
    try:
        Machine(life, [Look()]).run(ctx)
    except ValueError:
        pass
    return seen, ctx


def test_a_mode_belongs_to_its_scope():
    "It is set before the scope's enter hooks, holds for everything inside, and is put back after its exit hooks."
    seen, ctx = switches(answers={"more": [True]})
    assert seen == {
        **dict.fromkeys(["enter fit", "enter head", "exit head", "exit fit"], "fit"),
        **dict.fromkeys(
            ["enter batch", "enter pred", "exit pred", "enter loss", "exit loss", "exit batch"],
            "batch",
        ),
        "enter end": "outside",
    }
    assert (ctx.switch, ctx.modes) == ("outside", [])


def test_a_mode_is_put_back_where_a_scope_is_closed_by_an_event():
    "An event's arrow leaves scopes like any other."
    for call in ("do loss", "do batch"):
        seen, ctx = switches(does={call: SkipBatch}, answers={"more": [True]})
        assert seen["exit head"] == "fit"
        assert (ctx.switch, ctx.modes) == ("outside", [])


@pytest.mark.parametrize("call", ["do loss", "do fit", "close batch", "count", "[bad]"])
def test_a_mode_is_put_back_on_failure(call):
    "Wherever the error comes from, everything is outside as it was before."
    _, ctx = switches(does={call: ValueError("bad")}, answers={"more": [True]})
    assert ctx.state == FAILED
    assert (ctx.switch, ctx.modes) == ("outside", [])


@pytest.mark.parametrize(
    "call", ["exit loss", "exit batch", "exit fit", "enter batch", "close batch", "do loss"]
)
def test_a_mode_is_put_back_on_an_interrupt(call):
    "An interrupt in the middle of leaving a scope leaves none of its modes behind."
    ctx = Ctx(does={call: once(KeyboardInterrupt())}, answers={"more": [True]})
    try:
        Machine(MODAL, [Watch(MODAL)]).run(ctx)
    except KeyboardInterrupt:
        assert call == "exit fit"  # nothing is open any more that could take it
    assert (ctx.switch, ctx.modes) == ("outside", [])


def test_actions_are_wrapped_by_the_scopes_around_them():
    "From the inside out; a scope's own action is not inside it."
    log = run(MODAL, [], answers={"more": [True]}).calls
    assert log[:4] == ["do fit", "[more]", "count", "<fit>"]
    assert log[4:9] == ["do batch", "<fit>", "<batch>", "do pred", "<fit>"]


def test_modes_are_put_back_around_each_pause():
    "Between two steps everything is as it was outside, and what was changed outside meanwhile stays changed."
    ctx = Ctx(answers={"more": [True]}, switch="before")
    steps = Machine(MODAL).steps(ctx)
    inside = []
    ctx.does["do loss"] = ctx.does["do pred"] = lambda ctx: inside.append(ctx.switch)
    for transition in steps:
        assert ctx.switch == ("meanwhile" if "meanwhile" in inside else "before")
        if transition.dest == "pred":
            ctx.switch = "meanwhile"
            inside.append("meanwhile")
    assert inside == ["batch", "meanwhile", "batch"]
    assert (ctx.switch, ctx.modes) == ("meanwhile", [])


def test_what_an_action_changed_is_there_after_a_pause():
    "A pause remembers what the mode had become inside, not what it began with."
    ctx = Ctx(answers={"more": [True]})
    ctx.does["do pred"] = lambda ctx: setattr(ctx, "switch", "changed inside")
    inside = []
    ctx.does["do loss"] = lambda ctx: inside.append(ctx.switch)
    for _ in Machine(MODAL).steps(ctx):
        assert ctx.switch == "outside"
    assert inside == ["changed inside"]


def test_a_failure_between_pauses_puts_modes_back():
    "A stepped run that fails leaves nothing set."
    ctx = Ctx(answers={"more": [True]}, does={"do loss": ValueError("bad")})
    with pytest.raises(ValueError, match="bad"):
        Machine(MODAL).steps(ctx).finish()
    assert (ctx.switch, ctx.modes) == ("outside", [])


@frozen
class Brittle(Switch):
    """A mode that cannot be switched when the context says so."""

    def write(self, ctx, value):
        if ctx.answers.get("brittle") and ctx.answers["brittle"].pop():
            raise OSError("stuck")
        ctx.switch = value


@pytest.mark.parametrize("engine", ["table", "transitions"])
@pytest.mark.parametrize("passes", [0, 1], ids=["when the pause ends", "when the next one begins"])
def test_a_mode_that_raises_around_a_pause_fails_the_run(passes, engine):
    "Its error ends the run like any other: it is closed, clean-ups run, and the context can be used again."
    done = []
    ctx = Ctx(answers={"more": [True], "brittle": [True] + [False] * 20})
    life = LIFE.replace("fit", mode=Brittle("fit"))
    steps = Machine(life, engine=engine).steps(ctx)
    ctx.defer(lambda: done.append("cleaned up"))
    next(steps)
    ctx.answers["brittle"] = [True] + [False] * passes
    with pytest.raises(OSError, match="stuck"):
        next(steps)
    assert isinstance(ctx.outcome, Failed)
    assert (ctx.state, ctx.modes, done) == ("failed", [], ["cleaned up"])
    with pytest.raises(StopIteration):
        next(steps)
    Machine(LIFE).run(ctx)
    assert ctx.state == "end"


@pytest.mark.parametrize("engine", ["table", "transitions"])
def test_two_walks_of_one_context_are_refused_when_the_second_begins(engine):
    "Both were made before either began; the first is left as it is, and when it has ended the second may begin."
    ctx, machine = Ctx(answers={"more": [True]}), Machine(LIFE, engine=engine)
    first, second, third = (machine.steps(ctx) for _ in range(3))
    next(first)
    state = ctx.state
    with pytest.raises(MachineError, match="this context is in a run already, in state 'fit'"):
        next(second)
    assert ctx.state == state
    assert ctx.outcome is None
    first.finish()
    assert ctx.state == "end"
    next(third)
    assert (ctx.state, ctx.outcome) == ("fit", None)


def test_steps_that_are_let_go_of_touch_nothing_outside():
    "What was put back when the pause began is not put back again when somebody else has set it since."
    ctx = Ctx(answers={"more": [True]})
    steps = Machine(MODAL).steps(ctx, until="pred")
    ctx.switch = "set since"
    del steps
    gc.collect()
    assert (ctx.switch, ctx.modes) == ("set since", [])
    assert ctx.outcome == Interrupted(0, "its steps were closed")


# ---------------------------------------------------------------- steps


def test_steps_yield_each_transition_when_it_has_been_taken():
    "After each step the state is entered and its work is done."
    ctx = Ctx(answers={"more": [True]})
    taken = [(str(transition), ctx.state, ctx.calls[-1]) for transition in Machine(LIFE).steps(ctx)]
    assert taken[:4] == [
        ("[*] -> fit", "fit", "do fit"),
        ("fit -> head", "head", "do fit"),
        ("head -> batch [more] / count", "batch", "do batch"),
        ("batch -> pred", "pred", "do pred"),
    ]
    assert [state for _, state, _ in taken] == [
        "fit",
        "head",
        "batch",
        "pred",
        "loss",
        "head",
        "end",
    ]
    assert ctx.outcome == Completed()


def test_until_a_state():
    "Steps are taken until the state has done its work; then the run can go on from there."
    ctx = Ctx(answers={"more": [True, True]})
    steps = Machine(LIFE).steps(ctx)
    assert steps.until("loss").dest == "loss"
    assert (ctx.state, ctx.calls[-1]) == ("loss", "do loss")
    assert steps.until("loss").source == "pred"
    assert ctx.calls.count("do loss") == 2
    assert steps.until("batch") is None
    assert ctx.outcome == Completed()


def test_until_a_condition():
    "Any function of the context will do; `steps(until=)` goes there at once."
    ctx = Ctx(answers={"more": [True, True, True]})
    steps = Machine(LIFE).steps(ctx, until=lambda ctx: ctx.calls.count("do pred") == 2)
    assert (ctx.state, ctx.calls.count("do pred")) == ("pred", 2)
    assert steps.finish() is ctx
    assert ctx.calls.count("do pred") == 3


def test_until_an_unknown_state():
    "A misspelt goal would run to the end; it is refused with the nearest name."
    ctx = Ctx()
    with pytest.raises(
        LifecycleError, match=re.escape("demo: no state 'perd'; did you mean 'pred'?")
    ):
        Machine(LIFE).steps(ctx, until="perd")
    assert ctx.calls == []


def test_closing_ends_the_run_there():
    "Clean-ups run, the outcome is `Interrupted`, nothing else is called, and closing again does nothing."
    ctx = Ctx(answers={"more": [True]})
    ctx.defer(lambda: ctx.calls.append("cleaned"))
    with Machine(MODAL, [Watch(MODAL)]).steps(ctx, until="pred") as steps:
        pass
    assert ctx.calls[-2:] == ["do pred", "cleaned"]
    assert ctx.outcome == Interrupted(0, "its steps were closed")
    assert (ctx.state, ctx.switch, ctx.modes) == ("pred", "outside", [])
    steps.close()
    assert list(steps) == []
    assert ctx.calls.count("cleaned") == 1


def test_closing_a_run_that_has_ended_changes_nothing():
    "The outcome stays what it was."
    ctx = Ctx()
    with Machine(LIFE).steps(ctx) as steps:
        steps.until("end")
    assert ctx.outcome == Completed()


def test_a_clean_up_that_raises_on_closing():
    "Its error is not swallowed, and the other clean-ups run."
    ctx = Ctx()
    ctx.defer(lambda: ctx.calls.append("cleaned"))
    ctx.defer(broken_disk)
    steps = Machine(LIFE).steps(ctx, until="head")
    with pytest.raises(OSError, match="disk full"):
        steps.close()
    assert ctx.calls[-1] == "cleaned"


def test_an_error_in_the_block_closes_the_steps():
    "What a user raises between two steps comes out, and the run is closed."
    ctx = Ctx()
    with pytest.raises(RuntimeError, match="mine"), Machine(LIFE).steps(ctx, until="head"):
        raise RuntimeError("mine")
    assert ctx.outcome == Interrupted(0, "its steps were closed")


def test_a_closed_run_can_be_started_anew():
    "The context is free again."
    ctx = Ctx()
    Machine(LIFE).steps(ctx, until="head").close()
    assert Machine(LIFE).run(ctx).outcome == Completed()


@settings(drawn, max_examples=60)
@given(scenarios())
def test_a_run_in_one_go_is_a_run_in_steps(scenario):
    "On random lifecycles, with callbacks and whatever goes wrong, both make the same calls and end alike."
    # The writes of modes around each pause are what a pause is for; that they are made can be seen,
    # and they may not raise.
    scenario = evolve(scenario, script=scenario.script.without("write "))
    whole, stepped = scenario.run(), scenario.run(stepped=True)
    calls = [
        [entry for entry in report.log if not entry.label.startswith("write ")]
        for report in (whole, stepped)
    ]
    assert calls[0] == calls[1]
    assert whole._replace(log=[], taken=[]) == stepped._replace(log=[], taken=[])
    assert whole.left[:2] == (0, 0)


# ---------------------------------------------------------------- may


def test_what_may_happen_next():
    "The arrows out of the current state, each with whether it holds and why; nothing is taken."
    ctx = Ctx(answers={"more": [True, True, False]})
    machine = Machine(LIFE)
    assert [str(answer) for answer in machine.may(ctx)] == [
        "yes  [*] -> fit  (the run has not started)"
    ]
    machine.steps(ctx, until="head")
    ctx.calls.clear()
    taken, other = machine.may(ctx)
    assert (taken.transition, taken.holds, taken.reason) == (
        LIFE.between("head", "batch")[0],
        True,
        "answer",
    )
    assert (other.transition, other.holds, other.reason) == (
        LIFE.between("head", "end")[0],
        True,
        "it has no guard",
    )
    assert ctx.calls == ["[more]"]
    ctx.answers["more"] = []
    assert str(machine.may(ctx)[0]).startswith("no   head -> batch [more]")
    assert "not: more" in str(machine.may(ctx)[0])
    assert ctx.state == "head"


def test_nothing_may_happen_after_the_end():
    "Neither a final state nor `failed` leads anywhere."
    machine = Machine(LIFE)
    assert machine.may(machine.run(Ctx())) == ()
    ctx, _, _ = failing(does={"do fit": ValueError})
    assert machine.may(ctx) == ()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("call", ["do pred", "enter pred", "exit pred", "count", "close batch"])
@pytest.mark.parametrize("result", [0, False, "x", [1]], ids=repr)
def test_what_is_returned_is_refused(call, result):
    "Actions, hooks, effects and close work write into the context; a value that is returned would be lost."
    _, error, notes = failing(does={call: result}, answers={"more": [True]})
    assert isinstance(error, CallbackError)
    assert (
        " must return nothing, and returned something; let it write into the context instead"
        in str(error)
    )
    assert "in state " in notes


def test_a_guard_that_answers_neither_true_nor_false():
    "In a run it is an error that names the lifecycle, the arrow and the guard, and fails the run."
    ctx, error, _ = failing(answers={"more": [1]})
    assert isinstance(error, GuardError)
    assert "demo: arrow head -> batch: guard [more] must answer True or False, got int: 1" in str(
        error
    )
    assert ctx.state == FAILED


def test_a_guard_of_an_event_that_goes_wrong():
    "An error in it, or an answer that is no bool, fails the run as it does anywhere, clean-ups included."
    for answers, kind in (([ValueError], ValueError), ([3], GuardError)):
        life = LIFE.add(Transition("loss", "head", asks("take it"), event=StopFit))
        ctx = Ctx(does={"do loss": StopFit}, answers={"more": [True], "take it": answers})
        if kind is ValueError:
            ctx.does["[take it]"] = ValueError("bad")
        ctx.defer(lambda ctx=ctx: ctx.calls.append("cleaned"))
        with pytest.raises(kind) as raised:
            Machine(life).run(ctx)
        assert "the guard [take it] of loss -> head" in raised.value.__notes__[0]
        assert ctx.calls[-1] == "cleaned"
        assert ctx.state == FAILED


def test_a_context_that_is_in_a_run():
    "An action that runs a machine on its own context is an error, and the first run fails with it."
    ctx, error, _ = failing(
        does={"do pred": lambda ctx: Machine(LIFE).run(ctx)}, answers={"more": [True]}
    )
    assert isinstance(error, MachineError)
    assert "this context is in a run already, in state 'pred'" in str(error)
    assert ctx.outcome == Failed(0, "pred", error)


def test_a_machine_may_run_within_a_run():
    "On another context it is nobody's business."
    ctx = run(
        does={"do pred": lambda ctx: Machine(LIFE).run(Ctx()) and None}, answers={"more": [True]}
    )
    assert ctx.outcome == Completed()


def hooked(*names, base=Callback):
    """A callback with hooks of these names."""
    return type("Log", (base,), {name: lambda self, ctx: None for name in names})()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "on_exit_btach",
            (
                "Callback 'Log' has 'on_exit_btach': no state 'btach' in lifecycle 'demo'; did you"
                " mean 'on_exit_batch'?"
            ),
        ),
        (
            "on_enter_xyz",
            "Callback 'Log' has 'on_enter_xyz': no state 'xyz' in lifecycle 'demo'; known: ",
        ),
        (
            "on_batch",
            "Callback 'Log' has 'on_batch': hooks are on_enter_<state> and on_exit_<state>",
        ),
        (
            "on_transitoin",
            (
                "Callback 'Log' has 'on_transitoin': hooks are on_enter_<state> and"
                " on_exit_<state>; did you mean 'on_transition'?"
            ),
        ),
    ],
)
def test_hooks_that_no_state_bears(name, words):
    "A misspelt hook would never be called, so it is refused before the run, with the nearest one."
    with pytest.raises(CallbackError) as error:
        Machine(LIFE, [hooked(name)])
    assert words in str(error.value)


def test_hooks_of_states_that_an_option_would_bring():
    "A callback may listen to states that this lifecycle has not, if the lifecycle says that others like it have."
    life = Lifecycle("demo", LIFE.states, LIFE.transitions, also=frozenset({"valid"}))
    assert run(life, [hooked("on_enter_valid", "on_enter_failed")]).outcome == Completed()
    with pytest.raises(CallbackError, match=r"no state 'vlid'.*did you mean 'on_enter_valid'"):
        Machine(life, [hooked("on_enter_vlid")])


def test_hooks_that_could_not_be_called():
    "A hook takes the context alone, and is a plain function."

    class TooMany(Callback):
        def on_enter_fit(self, ctx, epoch):
            """Takes too much."""

    class Waits(Callback):
        async def on_enter_fit(self, ctx):
            """Would never run."""

    with pytest.raises(
        CallbackError,
        match=re.escape(
            "Callback 'TooMany': on_enter_fit(ctx, epoch) must take the context as its only"
            " argument"
        ),
    ):
        Machine(LIFE, [TooMany()])
    with pytest.raises(
        CallbackError,
        match="Callback 'Waits': on_enter_fit is a coroutine or generator and would never run",
    ):
        Machine(LIFE, [Waits()])


def test_what_is_no_callback():
    "A class, or anything else, in the place of an instance."
    with pytest.raises(
        CallbackError,
        match=re.escape("callbacks are instances, got the class Callback; write Callback()"),
    ):
        Machine(LIFE, [Callback])
    for wrong in ([3], 3):
        with pytest.raises(
            CallbackError, match=r"a callback is an instance of statetrain\.Callback, got 3"
        ):
            Machine(LIFE, wrong)
    with pytest.raises(
        CallbackError, match=r"a callback is an instance of statetrain\.Callback, got None"
    ):
        Machine(LIFE, None)


def test_the_same_callback_twice():
    "One instance listens once; two of a class are two."
    one = hooked("on_enter_fit")
    with pytest.raises(
        CallbackError, match="callback 'Log' was given twice; each instance listens once"
    ):
        Machine(LIFE, [one, one])
    assert len(Machine(LIFE, [one, hooked("on_enter_fit")]).callbacks) == 2
    assert Machine(LIFE, one).callbacks == (one,)


def test_an_unknown_engine():
    "There are two, and the classes of `transitions`."
    with pytest.raises(
        MachineError, match=r"engine must be 'table', 'transitions', or a class .*, got 'fast'"
    ):
        Machine(LIFE, engine="fast")


def test_a_machine_says_what_it_is():
    "Its lifecycle, its size and its callbacks."
    assert repr(Machine(LIFE)) == "<Machine 'demo': 6 states, 10 transitions>"
    assert repr(Machine(LIFE, [hooked("on_enter_fit")])).endswith(", callbacks Log>")
    assert Machine(LIFE) == Machine(LIFE)
