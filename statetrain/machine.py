'''The machine: a lifecycle bound to callbacks, compiled once, and the loop that walks it.

Everything that a run will do is laid out before it starts. Each arrow becomes a flat list of `Work`: what to call, in
order, and which transition and state are published while it is called. Straight stretches without a decision are joined,
so the loop only ever does two things: run a list, ask a row of guards. A state with nobody listening costs its row.
'''

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

from attrs import evolve, field, frozen

from statetrain.asking import Explanation, observed, why, why_not
from statetrain.callback import Callback, name_of, unwrapped
from statetrain.contracts import listeners_of
from statetrain.dataflow import Kind as Doer
from statetrain.dataflow import check, solve
from statetrain.debugging import Watch
from statetrain.flight import flown, in_words
from statetrain.guards import strict
from statetrain.lifecycle import FAILED, START, Lifecycle, Mode, Transition
from statetrain.naming import did_you_mean, signature_of
from statetrain.order import Order, arranged, hook_named, is_called
from statetrain.outcome import CallbackError, Completed, Event, Failed, GuardError, Interrupted, LifecycleError, MachineError
from statetrain.outline import DataFlow, Outline
from statetrain.steps import Steps
from statetrain.witness import WITNESS, Witness

Kind = Literal["enter", "action", "exit", "close", "effect", "mode", "transition", "anchor", "reopen", "resume"]


class Work(NamedTuple):
    """One call of a run."""

    transition: Transition  # published while it is called
    state: str  # likewise
    function: Callable[[Any], None]
    kind: Kind
    open: str  # the innermost state that is open when it is called; where an event is looked for
    owner: str = ""  # the callback and the hook that it comes from


Call: TypeAlias = tuple[tuple[Transition, str], Callable[[Any], None]]
Row: TypeAlias = "list[tuple[Callable[[Any], bool] | None, tuple[Call, ...], Landing]]"
# The last transition of a list and where it led, what is asked there; and all transitions of the list, for the flight recorder.
Landing: TypeAlias = tuple[tuple[Transition, str], Row, tuple[Transition, ...]]
Drive: TypeAlias = Generator[Transition, None, None]


class Answer(NamedTuple):
    """Whether an arrow could be taken now, and why."""

    transition: Transition
    holds: bool
    reason: str

    def __str__(self) -> str:
        return f"{'yes' if self.holds else 'no '}  {self.transition}" + (f"  ({self.reason})" if self.reason else "")


def _callbacks(value: Any) -> tuple[Callback, ...]:
    return tuple(value) if isinstance(value, Iterable) else (value,)  # what is no callback is refused by its hooks


@frozen(repr=False)
class Machine:
    """A lifecycle bound to callbacks. Frozen: what a run changes is in its context, so one machine serves many runs.

    Args:
        lifecycle: the table to walk.
        callbacks: who watches, in the order in which they are called unless they declare another one.
        engine: "table", the compiled table; or "transitions", a live machine of the `transitions` package, which does
            the same far more slowly and serves as the reference.
        debug: whether components are held to what they declare that they read and write, at every access.

    Raises:
        CallbackError: a callback has a hook that no state bears.
        ContractError: what is declared to be read is not there on every way, or callbacks cannot be put in an order.
    """

    lifecycle: Lifecycle
    callbacks: tuple[Callback, ...] = field(default=(), converter=_callbacks)
    engine: Literal["table", "transitions"] = "table"
    debug: bool = field(default=False, kw_only=True)
    _hooks: dict[str, list[tuple[str, Callable[[Any], None]]]] = field(init=False, eq=False, factory=dict)
    _orders: dict[str, Order] = field(init=False, eq=False, factory=dict)
    _watch: list[Watch] = field(init=False, eq=False, factory=list)  # one in debug mode, else none
    _fused: dict[str, Row] = field(init=False, eq=False, factory=dict)
    _stepwise: dict[str, Row] = field(init=False, eq=False, factory=dict)
    _works: dict[Call, Work] = field(init=False, eq=False, factory=dict)
    _laid: dict[tuple[Transition, str], tuple[Call, ...]] = field(init=False, eq=False, factory=dict)
    _witness: Witness | None = field(init=False, eq=False, default=None)
    _measuring: tuple[Callback, ...] = field(init=False, eq=False, default=())

    def __attrs_post_init__(self) -> None:
        if self.engine not in ("table", "transitions"):
            raise MachineError(f"engine must be 'table' or 'transitions', got {self.engine!r}")
        self._orders.update(arranged(listeners_of(self.callbacks, self.lifecycle)))
        called = {hook: order.listeners for hook, order in self._orders.items()}
        check(self.lifecycle, called)
        if self.debug:
            self._watch.append(Watch(solve(self.lifecycle, called), called))
        for name, listeners in called.items():
            self._hooks[name] = [(f"{name_of(one.callback)}.{name}", self._watch[0].hook(one) if self.debug else one.function) for one in listeners]
        # Most callbacks measure nothing, and there may be a thousand.
        measuring = tuple(callback for callback in self.callbacks if type(unwrapped(callback)).wrap_call is not Callback.wrap_call)
        object.__setattr__(self, "_measuring", measuring)
        if (find := WITNESS.get()) is not None:
            object.__setattr__(self, "_witness", find(self.lifecycle))
        for rows in (self._stepwise, self._fused):
            for name in (*self.lifecycle.names, FAILED):
                rows[name] = []
            for name in self.lifecycle.names:
                rows[name].extend(self._row(name, rows))

    # ------------------------------------------------------------ laying out

    def works(self, arrow: Transition, active: str) -> list[Work]:
        """What taking an arrow calls, in order, when `active` is the innermost state that is open."""
        left, entered = self.lifecycle.crossing(active, arrow.dest)
        out = [work for name in left for work in self.leaving(arrow, name, active)]
        out += self.passing(arrow, entered[0], active)
        for name in entered:
            out += self.entering(arrow, name, active)
            active = name
        return out

    def leaving(self, arrow: Transition, name: str, active: str) -> list[Work]:
        """The part of `works` that leaves one state: its exit hooks, its close work, its mode."""
        if arrow.dest == FAILED:  # its effect raises, and a failure leaves nothing: what it happened in is still there
            return []
        state, around = self.lifecycle.state(name), self._around(name)
        out = [Work(arrow, active, hook, "exit", around, owner) for owner, hook in self._hooks.get(f"on_exit_{name}", ())]
        if state.close is not None:
            out.append(Work(arrow, active, self._held(state.close, state.close, "close", name), "close", around))
        if state.mode is not None:
            out.append(Work(arrow, active, _leave_mode, "mode", around))
        return out

    def passing(self, arrow: Transition, name: str, active: str) -> list[Work]:
        """The part of `works` between leaving and entering: the arrow's own; `name` is the outermost state entered."""
        around = self._around(name)
        effect = arrow.effect if arrow.effect is None else self._held(arrow.effect, arrow.effect, "effect", arrow)
        out = [Work(arrow, active, effect, "effect", around)] if effect is not None else []
        if self._witness is not None and (take := self._witness.taking(arrow)) is not None:
            out.insert(0, Work(arrow, active, take, "transition", around))
        if arrow.guard is not None:
            out += [Work(arrow, active, mark, "effect", around) for mark in arrow.guard.marks(arrow.dest)]
        out += [Work(arrow, active, hook, "transition", around, owner) for owner, hook in self._hooks.get("on_transition", ())]
        return out

    def entering(self, arrow: Transition, name: str, active: str) -> list[Work]:
        """The part of `works` that enters one state: its mode, its enter hooks, its action."""
        out = [Work(arrow, name, hook, "enter", name, owner) for owner, hook in self._hooks.get(f"on_enter_{name}", ())]
        state = self.lifecycle.state(name) if name != FAILED else None
        if state is not None and state.mode is not None:
            out.insert(0, Work(arrow, active, _EnterMode(state.mode), "mode", self._around(name)))
        if state is not None and state.anchor:
            out += [Work(arrow, name, hook, "anchor", name, owner) for owner, hook in self._hooks.get("on_anchor", ())]
        if state is not None and state.action is not None:
            out.append(Work(arrow, name, self._wrapped(name), "action", name))
        return out

    def reopening(self, at: str) -> tuple[Transition, list[Work]]:
        """What continuing at an anchor calls, in order, and the arrow that is published meanwhile.

        Raises:
            LifecycleError: there is no such state, or it is no anchor.
        """
        if not self.lifecycle.state(at).anchor:
            anchors = [state.name for state in self.lifecycle.states if state.anchor]
            raise LifecycleError(
                f"{self.lifecycle.name}: a run cannot be continued at {at!r}, which is no anchor"
                + (f"; anchors are {', '.join(map(repr, anchors))}" if anchors else "; declare one with State(..., anchor=True)")
            )
        arrow, out = Transition(START, at), []
        for name in self.lifecycle.path(at):
            state = self.lifecycle.state(name)
            if state.mode is not None:
                out.append(Work(arrow, name, _EnterMode(state.mode), "mode", self._around(name)))
            if state.reopen is not None:
                out.append(Work(arrow, name, state.reopen, "reopen", name))
        out += [Work(arrow, at, hook, "resume", at, owner) for owner, hook in self._hooks.get("on_resume", ())]
        out.append(Work(arrow, at, _settle_in, "reopen", at))
        if self.lifecycle.state(at).action is not None:
            out.append(Work(arrow, at, self._wrapped(at), "action", at))
        return arrow, out

    def _around(self, name: str) -> str:
        return (self.lifecycle.state(name).within if name != FAILED else None) or START

    def _wrapped(self, name: str) -> Callable[[Any], None]:
        """A state's action as the scopes around it want it run."""
        action = self.lifecycle.state(name).action
        assert action is not None
        for scope in reversed(self.lifecycle.path(name)[:-1]):
            mode = self.lifecycle.state(scope).mode
            if mode is not None:
                action = mode.wrap(action)
        return self._held(action, self.lifecycle.state(name).action, "action", name)

    def _held(self, function: Callable[[Any], None], declaring: Any, kind: Doer, of: str | Transition) -> Callable[[Any], None]:
        """A function that debug mode holds to what it declares; else the function itself."""
        return self._watch[0].work(function, declaring, kind, of) if self._watch else function

    def _calls(self, arrow: Transition, active: str) -> tuple[Call, ...]:
        if (arrow, active) not in self._laid:
            self._laid[arrow, active] = tuple(self._call(work) for work in self.works(arrow, active))
        return self._laid[arrow, active]

    def _call(self, work: Work) -> Call:
        function = self._measured(work.function, work.state, work.owner)
        place = (work.transition, work.state)
        call = (place, function)
        if call in self._works:  # one function in two places of a way: a wrapper tells which of them raised
            call = (place, partial(function))
        self._works[call] = work
        return call

    def _measured(self, function: Callable[[Any], Any], state: str, hook: str = "") -> Callable[[Any], Any]:
        """A function as the callbacks that measure want it called; itself where there are none."""
        for callback in self._measuring:
            function = callback.wrap_call(function, state, hook)
        return function

    def _row(self, name: str, rows: dict[str, Row]) -> Row:
        row: Row = []
        told = rows is self._stepwise or any(unwrapped(callback).asks for callback in self.callbacks)
        for arrow in self.lifecycle.arrows(name):
            first = not any(other[0] for other in row)
            ask = self._measured(self._test(arrow, told, first), name) if arrow.guard is not None else None
            row.append((ask, *self._stretch(arrow, name, rows)))
        return row

    def _test(self, arrow: Transition, told: bool, first: bool) -> Callable[[Any], bool]:
        """The test of an arrow's guard; one that keeps what its parts answer, if that is to be told."""
        assert arrow.guard is not None
        test = observed(arrow, first) if told else arrow.guard.bind(arrow.dest)
        test = self._watch[0].test(arrow.guard, test, arrow) if self._watch else test
        return test if self._witness is None else self._witness.asking(arrow, test)

    def _stretch(self, arrow: Transition, active: str, rows: dict[str, Row]) -> tuple[tuple[Call, ...], Landing]:
        """The calls of an arrow and, when fused, of the lone unguarded arrows that follow it; and where they lead."""
        calls, seen, taken = self._calls(arrow, active), {active}, [arrow]
        while rows is self._fused and arrow.dest not in seen:
            seen.add(arrow.dest)
            onward = self.lifecycle.arrows(arrow.dest)
            if len(onward) != 1 or onward[0].guard is not None:
                break
            arrow, active = onward[0], arrow.dest
            calls += self._calls(arrow, active)
            taken.append(arrow)
        return calls, ((arrow, arrow.dest), rows[arrow.dest], tuple(taken))

    # ------------------------------------------------------------ running

    def run(self, ctx: Any, at: str | None = None) -> Any:
        """Walks the lifecycle from its initial state to a final one.

        Args:
            ctx: the context, changed in place.
            at: the anchor to continue at, with a context in which a snapshot has been restored; None starts a run.

        Returns:
            The context; `ctx.outcome` says how the run ended.

        Raises:
            LifecycleError: `at` is no anchor.
            BaseException: whatever an action, guard or callback raised and no arrow takes, as it was, with a note.
        """
        for _ in self._drive(ctx, watched=False, at=at):
            pass
        return ctx

    def steps(self, ctx: Any, until: str | Callable[[Any], bool] | None = None, at: str | None = None) -> Steps:
        """The same walk, one transition at a time.

        Args:
            ctx: the context, changed in place.
            until: a state or a condition to stop at first; see `Steps.until`.
            at: the anchor to continue at, as in `run`.
        """
        steps = Steps(self, ctx, self._drive(ctx, watched=True, at=at))
        if until is not None:
            steps.until(until)
        return steps

    def may(self, ctx: Any) -> tuple[Answer, ...]:
        """The arrows out of the current state, each with whether it holds now and why."""
        if ctx.state is None:
            return (Answer(self.lifecycle.start, True, "the run has not started"),)
        answers = []
        for arrow in self.lifecycle.arrows(ctx.state) if ctx.state != FAILED else ():
            if arrow.guard is None:
                answers.append(Answer(arrow, True, "it has no guard"))
                continue
            holds = strict(arrow.guard, self._test(arrow, False, False)(ctx))
            answers.append(Answer(arrow, holds, arrow.guard.reason(ctx) if holds else f"not: {arrow.guard.label}"))
        return tuple(answers)

    def why(self, ctx: Any) -> Explanation:
        """Why a run is where it is; see `statetrain.asking.why`."""
        return why(self.lifecycle, ctx)

    def why_not(self, ctx: Any, state: str) -> Explanation:
        """Why a run is not in a state or a scope; see `statetrain.asking.why_not`."""
        return why_not(self.lifecycle, ctx, state)

    # ------------------------------------------------------------ who listens

    def explain(self, hook: str) -> Order:
        """Who is called on a hook, in which order, and why; print it.

        Args:
            hook: such as "exit step" or "on_exit_step".

        Raises:
            MachineError: there is no such hook.
        """
        name = hook_named(hook, self.lifecycle.names)
        return self._orders.get(name, Order(name))

    def outline(self) -> Outline:
        """The states with who listens on each; print it."""
        return Outline(self.lifecycle, {hook: order.listeners for hook, order in self._orders.items()})

    def dataflow(self) -> DataFlow:
        """The fields of the context, with who writes and who reads each; print it, or draw it with `.mermaid()` and `.dot()`."""
        return DataFlow.of(self.lifecycle, {hook: order.listeners for hook, order in self._orders.items()})

    def find(self, callback: type[Callback] | str) -> tuple[Callback, ...]:
        """The callbacks of a class, or of a name, in the order in which they were given; also those under a condition.

        Args:
            callback: a class, or what a callback is called.
        """
        return tuple(one for one in self.callbacks if is_called(one, callback))

    def with_callbacks(self, *callbacks: Callback) -> Machine:
        """A machine with more callbacks, after the others."""
        return evolve(self, callbacks=(*self.callbacks, *callbacks))

    def without(self, *callbacks: Callback | type[Callback] | str) -> Machine:
        """A machine without some callbacks.

        Args:
            callbacks: instances, classes or names; of a class or a name, all go.

        Raises:
            MachineError: it has no such callback.
        """
        gone = [one for callback in callbacks for one in self._those(callback)]
        return evolve(self, callbacks=[one for one in self.callbacks if not any(one is other for other in gone)])

    def replace(self, old: Callback | type[Callback] | str, new: Callback) -> Machine:
        """A machine with another callback in the place of one.

        Args:
            old: an instance, a class or a name.
            new: what stands there now.

        Raises:
            MachineError: it has no such callback, or several.
        """
        found = self._those(old)
        if len(found) > 1:
            raise MachineError(f"{self.lifecycle.name}: {len(found)} callbacks are {_asked_for(old)}; give the one that is meant: machine.find(...)[0]")
        return evolve(self, callbacks=[new if one is found[0] else one for one in self.callbacks])

    def _those(self, callback: Callback | type[Callback] | str) -> tuple[Callback, ...]:
        same = (one for one in self.callbacks if one is callback or unwrapped(one) is callback)
        found = tuple(same) if isinstance(callback, Callback) else self.find(callback)
        if not found:
            raise MachineError(f"{self.lifecycle.name}: no callback is {_asked_for(callback)}{did_you_mean(_asked_for(callback), map(name_of, self.callbacks))}")
        return found

    def _drive(self, ctx: Any, watched: bool, at: str | None) -> Drive:
        opening = None if at is None else self.reopening(at)
        self._begin(ctx)
        if self.engine == "transitions":
            from statetrain.interop import drive

            return self._driven(ctx, drive(self, ctx, watched, opening))
        return self._driven(ctx, self._walk(ctx, watched, opening))

    def _driven(self, ctx: Any, drive: Drive) -> Drive:
        self._begin(ctx)  # another walk of this context may have begun since this one was made
        yield from drive

    def _begin(self, ctx: Any) -> None:
        if ctx.state is not None and ctx.outcome is None:
            raise MachineError(f"this context is in a run already, in state {ctx.state!r}; finish or close that one, or use another context")
        ctx.machine = self
        ctx.asked = []
        ctx.flight.clear()
        ctx.place = (None, None)
        ctx.event = ctx.error = ctx.outcome = None

    def _walk(self, ctx: Any, watched: bool, opening: tuple[Transition, list[Work]] | None) -> Drive:
        """The loop: call what was laid out, ask a row of guards, and again."""
        rows = self._stepwise if watched else self._fused
        works, landing = self._stretch(self.lifecycle.start, START, rows)
        if opening is not None:
            arrow, calls = opening
            works, landing = tuple(map(self._call, calls)), ((arrow, arrow.dest), rows[arrow.dest], (arrow,))
        work = ask = None
        remember = ctx.flight.append
        while True:
            try:
                while True:
                    remember(landing)
                    for ctx.place, work in works:
                        if work(ctx) is not None:
                            raise self._junk(ctx, work)
                    ctx.place, row, _ = landing
                    work = ask = None
                    if watched and row:
                        yield ctx.transition
                    for ask, works, landing in row:  # noqa: B007  # the next round calls what is found
                        if ask is None or (answer := ask(ctx)) is True:
                            break
                        if answer is not False:
                            raise self._not_strict(ctx, ask, answer)
                    else:  # nothing is asked in a final state
                        self.finish(ctx)
                        if watched:
                            yield ctx.transition
                        return
            except BaseException as error:
                works, landing = self._stretch(*self.caught(ctx, error, work, ask), rows)

    # ------------------------------------------------------------ out of the ordinary

    def caught(self, ctx: Any, error: BaseException, work: Any, ask: Any = None) -> tuple[Transition, str]:
        """What an exception leads to.

        Args:
            ctx: the context.
            error: what was raised.
            work: the function that was being called, or its `Work`; None while guards were asked.
            ask: the guard's test that was being asked, if one was; or the arrow that it belongs to.

        Returns:
            The arrow that takes it, and the innermost state that is open.

        Raises:
            BaseException: no arrow takes it. The run is closed, and `error` is raised again.
        """
        active = self.listening(ctx, error, work)
        ctx.asked = []
        for arrow in self.lifecycle.on_event(active, error) if active is not None else ():
            try:
                holds = self.ask(ctx, arrow)
            except BaseException as second:
                self.fail(ctx, second, None, arrow)
            if holds:
                ctx.event = error
                return arrow, active or START
        return self.fail(ctx, error, work, ask)

    def listening(self, ctx: Any, error: BaseException, work: Any) -> str | None:
        """The innermost open state, from which an arrow that takes an exception is looked for; None if none may take it."""
        place = self._place(ctx, work)
        if isinstance(error, KeyboardInterrupt):
            active = place.open if place is not None else ctx.state or START
            try:
                self._settle(ctx, active)
            except BaseException as second:
                self.fail(ctx, second, None)
            return active
        return place.open if place is not None and place.kind in ("enter", "action") and ctx.outcome is None else None

    def _settle(self, ctx: Any, active: str) -> None:
        """Puts back the modes of scopes that were being left or entered when a person interrupted."""
        still_open = sum(self.lifecycle.state(name).mode is not None for name in self.lifecycle.path(active) if name not in (START, FAILED))
        while len(ctx.modes) > still_open:
            _leave_mode(ctx)

    def ask(self, ctx: Any, arrow: Transition) -> bool:
        """The answer of an arrow's guard, which is exactly True or False; True if it has none."""
        if arrow.guard is None:
            return True
        first = arrow.event is None and next(other for other in self.lifecycle.arrows(arrow.source) if other.guard is not None) == arrow
        answer = self._test(arrow, True, first)(ctx)
        if answer is not True and answer is not False:
            raise self._not_strict(ctx, arrow, answer)
        return answer

    def call(self, ctx: Any, work: Work) -> None:
        """Makes one call of a run, with what it belongs to published. The loop does the same without the record."""
        ctx.place = (work.transition, work.state)
        if work.function(ctx) is not None:
            raise self._junk(ctx, work)

    def depart(self, ctx: Any, arrow: Transition) -> None:
        """Remembers that an arrow is being taken. The loop does the same, for all arrows up to the next decision at once."""
        ctx.flight.append(((arrow, arrow.dest), (), (arrow,)))

    def land(self, ctx: Any, arrow: Transition) -> None:
        """Publishes that an arrow has been taken, and closes the run if it led to a final state."""
        ctx.place = (arrow, arrow.dest)
        if not self._stepwise[arrow.dest]:
            self.finish(ctx)

    def finish(self, ctx: Any) -> None:
        """Closes a run that has reached a final state."""
        if ctx.state == FAILED:
            raise LifecycleError(f"{self.lifecycle.name}: {ctx.transition} led to 'failed', but its effect raised no error; let it raise one")
        if ctx.outcome is None:
            ctx.outcome = Completed(_epoch(ctx))
        _raise(_clean_up(ctx))

    def fail(self, ctx: Any, error: BaseException, work: Any, ask: Any = None) -> NoReturn:
        """Closes a run that an exception ends, which no arrow takes, and raises it; the arguments are those of `caught`."""
        place = self._place(ctx, work)
        if isinstance(error, Event) and ctx.outcome is None:
            kind, active = type(error).__name__, self.listening(ctx, error, work)
            searched = ", ".join(repr(scope) for scope in reversed(self.lifecycle.path(active))) if active is not None else ""
            error = _chained(
                LifecycleError(
                    f"{self.lifecycle.name}: no open scope takes {kind} (searched {searched}); "
                    f"add Transition(<scope>, <dest>, event={kind})"
                    if active is not None
                    else f"{self.lifecycle.name}: {kind} was raised by {self._culprit(ctx, place, ask)}; events may be "
                    f"raised by actions and enter hooks only. Here, call ctx.request_stop(reason)"
                ),
                error,
            )
        if isinstance(error, StopIteration):
            error = _chained(MachineError(f"StopIteration was raised by {self._culprit(ctx, place, ask)}; it never ends an epoch"), error)
        closed = isinstance(error, GeneratorExit) and work is None and ask is None  # nobody's: it came where the run pauses
        where = ctx.where()  # before the modes are put back, which it depends on
        seconds: list[BaseException] = []
        while ctx.modes:
            mode, outer, *paused = ctx.modes.pop()
            try:
                if not paused:  # else it was put back when the pause began
                    mode.write(ctx, outer)
            except BaseException as second:
                seconds.append(second)
        if closed:
            ctx.outcome = ctx.outcome or Interrupted(_epoch(ctx), "its steps were closed")
            _raise(seconds + _clean_up(ctx))  # notes on the error would be lost: closing a generator swallows it
        else:
            state = ctx.state or self.lifecycle.initial
            at = ", ".join(part for part in (f"in state {state!r} of lifecycle {self.lifecycle.name!r}", where) if part)
            last = in_words(flown(ctx, place.transition if place is not None else None))
            error.add_note(f"statetrain: {at}; raised by {self._culprit(ctx, place, ask)}{_misspelt(ctx, error)}\n{last}")
            try:
                if advice := ctx.advice(error):
                    error.add_note(f"statetrain: {advice}")
            except Exception as second:  # what helps may not hide what has happened
                seconds.append(second)
            ctx.error, ctx.outcome, ctx.place = error, Failed(_epoch(ctx), state, error), (ctx.transition, FAILED)
            for _, hook in self._hooks.get("on_enter_failed", ()):
                try:
                    hook(ctx)
                except BaseException as second:
                    seconds.append(second)
        seconds += _clean_up(ctx)
        for other in seconds:
            error.add_note(f"statetrain: while closing the run, this was raised too: {other!r}")
        raise error

    def _culprit(self, ctx: Any, place: Work | None, ask: Any) -> str:
        """Who raised, for a person."""
        if place is None:
            arrow = self._asked(ctx, ask)
            return f"the guard [{arrow.guard.label}] of {arrow.source} -> {arrow.dest}" if arrow is not None and arrow.guard is not None else "the machine"
        if place.owner:
            return f"the hook {place.owner}"
        if place.kind == "effect":
            return f"the effect of {place.transition} ({signature_of(place.function)})"
        return f"the {place.kind} work of {place.state!r}" if place.kind != "action" else f"the action of {place.state!r}"

    def _place(self, ctx: Any, work: Any) -> Work | None:
        return work if isinstance(work, Work) else self._works.get((ctx.place, work)) if work is not None else None

    def _asked(self, ctx: Any, ask: Any) -> Transition | None:
        if isinstance(ask, Transition):
            return ask
        if ask is None or ctx.state not in self._stepwise:
            return None
        arrows = self.lifecycle.arrows(ctx.state)
        rows = (*zip(self._stepwise[ctx.state], arrows, strict=False), *zip(self._fused[ctx.state], arrows, strict=False))
        return next((arrow for (test, _, _), arrow in rows if test is ask), None)

    def _junk(self, ctx: Any, work: Any) -> CallbackError:
        culprit = self._culprit(ctx, self._place(ctx, work), None)
        return CallbackError(f"{culprit} must return nothing, and returned something; let it write into the context instead")

    def _not_strict(self, ctx: Any, ask: Any, answer: object) -> GuardError:
        arrow = self._asked(ctx, ask)
        assert arrow is not None
        assert arrow.guard is not None
        try:
            strict(arrow.guard, answer)
        except GuardError as error:
            return GuardError(f"{self.lifecycle.name}: arrow {arrow.source} -> {arrow.dest}: {error}")
        raise AssertionError("only asked about answers that are no bool")

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from statetrain.diagram.bundle import bundle

        return bundle(repr(self), self.lifecycle)

    def __repr__(self) -> str:
        callbacks = f", callbacks {', '.join(map(name_of, self.callbacks))}" if self.callbacks else ""
        return f"<Machine {self.lifecycle.name!r}: {len(self.lifecycle.states)} states, {len(self.lifecycle.transitions)} transitions{callbacks}>"


# ---------------------------------------------------------------- modes and clean-ups


@frozen
class _EnterMode:
    mode: Mode

    def __call__(self, ctx: Any) -> None:
        ctx.modes.append([self.mode, self.mode.read(ctx)])
        self.mode.begin(ctx)


def _leave_mode(ctx: Any) -> None:
    mode, outer = ctx.modes[-1]
    mode.write(ctx, outer)
    ctx.modes.pop()


def _settle_in(ctx: Any) -> None:
    """Puts back last, when everything is open again, what opening may have moved."""
    while ctx.reopening:
        ctx.reopening.pop(0)()


def _clean_up(ctx: Any) -> list[BaseException]:
    """Runs the deferred functions, the last first; all run though one raises."""
    errors: list[BaseException] = []
    while ctx.deferred:
        try:
            ctx.deferred.pop()()
        except BaseException as error:
            errors.append(error)
    return errors


def _raise(errors: list[BaseException]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup("several things were raised while closing the run", errors)


def _asked_for(callback: Callback | type[Callback] | str) -> str:
    return callback if isinstance(callback, str) else callback.__name__ if isinstance(callback, type) else name_of(callback)


def _epoch(ctx: Any) -> int:
    return int(getattr(ctx, "epoch", 0) or 0)


def _chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _misspelt(ctx: Any, error: BaseException) -> str:
    """The remedy for a field that does not exist, read or set; Python names none in what it raises."""
    words = rf"'{type(ctx).__name__}' object has no attribute '(\w+)'"  # newer versions go on after these
    found = re.match(words, str(error)) if isinstance(error, AttributeError) else None
    return did_you_mean(found[1], [name for name in dir(ctx) if not name.startswith("_")]) if found else ""
