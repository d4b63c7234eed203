"""The plan: everything that a machine will do, laid out before it starts.

Each arrow becomes a flat list of `Work`: what to call, in order, and which transition and state are
published while it is called. Straight stretches without a decision are joined, so that the loop of
the machine only ever does two things: run a list, ask a row of guards. A state without
listeners costs its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from attrs import field, frozen

from statetrain.callback import Callback, unwrapped
from statetrain.context.position import Position
from statetrain.contracts.ways import Doer
from statetrain.errors import LifecycleError
from statetrain.guards.base import Guard, Test, leaves
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START, Mode
from statetrain.lifecycle.transition import Transition
from statetrain.machine.agreeing import Agreement, heeding
from statetrain.machine.witness import Witness

if TYPE_CHECKING:
    from statetrain.contracts.debugging import Views

WorkKind = Literal[
    "enter",
    "action",
    "agree",
    "exit",
    "close",
    "effect",
    "mode",
    "transition",
    "anchor",
    "reopen",
    "resume",
]


NOBODY: frozenset[int] = frozenset()


class Work(NamedTuple):
    """One call of a run."""

    transition: Transition  # published while it is called
    state: str  # likewise
    function: Callable[[Any], None]
    kind: WorkKind
    open: str  # the innermost state that is open when it is called; where an event is looked for
    owner: str = ""  # the callback and the hook that it comes from
    listener: int = -1  # the place of that callback among all


_LONGEST = 64
"""Arrows in a straight stretch that are joined, at most: what is laid out grows with its square."""

PlannedCall: TypeAlias = tuple[tuple[Transition, str], Callable[[Any], None]]
# The last transition of a list and where it led; and all transitions of the list, for the flight
# recorder.
Landing: TypeAlias = tuple[tuple[Transition, str], tuple[Transition, ...]]
PlanRow: TypeAlias = "list[tuple[Callable[[Any], bool] | None, tuple[PlannedCall, ...], Landing]]"

_Bound: TypeAlias = "tuple[Test, tuple[Callable[[Any], None], ...]]"
"""The test of a guard at a place, and what it remembers when an arrow there has been taken."""


@frozen(eq=False)
class Plan:
    """A lifecycle and its listeners, compiled.

    Args:
        lifecycle: the table.
        hooks: what is called on each hook, in order, each with the name of its owner.
        places: the places of those owners among all callbacks, for each hook likewise.
        callbacks: who may want calls measured, or answers of guards kept.
        watch: holds components to what they declare, in debug mode; None otherwise.
        witness: is told of each arrow that is taken; usually None.
        agreement: the meetings of several ranks; None in one process.
    """

    lifecycle: Lifecycle
    hooks: Mapping[str, list[tuple[str, Callable[[Any], None]]]]
    places: Mapping[str, tuple[int, ...]] = field(factory=dict)
    callbacks: tuple[Callback, ...] = ()
    watch: Views | None = None
    witness: Witness | None = None
    agreement: Agreement | None = None
    works_of: dict[PlannedCall, Work] = field(init=False, factory=dict)
    _laid: dict[tuple[Transition, str, frozenset[int]], tuple[PlannedCall, ...]] = field(
        init=False, factory=dict
    )
    _guards: dict[tuple[int, str], _Bound] = field(init=False, factory=dict)
    _entering: dict[str, _EnterMode] = field(init=False)  # what begins the mode of each scope
    # There may be a thousand callbacks; most of them neither measure nor want to know, so they are
    # looked through once.
    _measuring: tuple[Callback, ...] = field(init=False)
    _asks: bool = field(init=False)
    _around: dict[str, str] = field(init=False)  # the scope around each state

    @_measuring.default
    def _those_that_measure(self) -> tuple[Callback, ...]:
        return tuple(
            callback
            for callback in self.callbacks
            if type(unwrapped(callback)).wrap_call is not Callback.wrap_call
        )

    @_asks.default
    def _somebody_asks(self) -> bool:
        return any(unwrapped(callback).asks for callback in self.callbacks)

    @_entering.default
    def _begin_modes(self) -> dict[str, _EnterMode]:
        modes = {state.name: state.mode for state in self.lifecycle.states}
        return {name: _EnterMode(mode) for name, mode in modes.items() if mode is not None}

    @_around.default
    def _find_scopes(self) -> dict[str, str]:
        scopes = {state.name: state.within or START for state in self.lifecycle.states}
        return {**scopes, FAILED: START}

    @cached_property
    def may_stop(self) -> bool:
        """Whether a guard of the table reads `ctx.stop`, so that a request to stop takes effect."""
        guards = (arrow.guard for arrow in self.lifecycle.transitions if arrow.guard is not None)
        return any(_reads_stop(leaf) for guard in guards for leaf in leaves(guard))

    def __attrs_post_init__(self) -> None:
        self.fused  # noqa: B018  # laid out now, so that what a guard refuses is known before a run

    @cached_property
    def fused(self) -> dict[str, PlanRow]:
        """By state, what is asked there and where it leads; straight stretches are joined."""
        return self._rows(is_fused=True)

    @cached_property
    def stepwise(self) -> dict[str, PlanRow]:
        """The same, one transition at a time, for runs that are watched."""
        return self._rows(is_fused=False)

    def _rows(self, *, is_fused: bool) -> dict[str, PlanRow]:
        rows = {name: self._row(name, is_fused) for name in self.lifecycle.names}
        return {**rows, FAILED: []}

    # ------------------------------------------------------------ the calls of an arrow

    def works(self, arrow: Transition, active: str, unheard: frozenset[int] = NOBODY) -> list[Work]:
        """What taking an arrow calls, in order, when `active` is the innermost state that is open.

        Args:
            arrow: what is taken.
            active: the innermost open state.
            unheard: the callbacks that were not told that `active` is entered, since the enter
                hook of another one raised an event; they are not told that it is left.
        """
        left, entered = self.lifecycle.crossing(active, arrow.dest)
        out = []
        for name in left:
            out += self.leaving(arrow, name, active, unheard)
            unheard = NOBODY  # only the innermost state may have been entered in part
        out += self.passing(arrow, entered[0], active)
        for name in entered:
            out += self.entering(arrow, name, active)
            active = name
        return out

    def unheard(self, work: Work | None) -> frozenset[int]:
        """The callbacks with an enter hook that would have been called after this one."""
        if work is None or work.kind != "enter":
            return NOBODY
        places = self.places.get(f"on_enter_{work.state}", ())
        if work.listener not in places:
            return NOBODY
        return frozenset(places[places.index(work.listener) + 1 :])

    def leaving(
        self, arrow: Transition, name: str, active: str, unheard: frozenset[int] = NOBODY
    ) -> list[Work]:
        """The part of `works` that leaves one state: its exit hooks, its close work, its mode."""
        if arrow.dest == FAILED:
            # Its effect raises, and a failure leaves nothing: what it happened in is still there
            return []
        state, around = self.lifecycle.state(name), self._around[name]
        out = [
            Work(arrow, active, hook, "exit", around, owner, place)
            for owner, hook, place in self._listening(f"on_exit_{name}")
            if place not in unheard
        ]
        if state.close is not None:
            close = self._held(state.close, state.close, "close", name)
            out.append(Work(arrow, active, close, "close", around))
        if state.mode is not None:
            out.append(Work(arrow, active, leave_mode, "mode", around))
        return out

    def passing(self, arrow: Transition, name: str, active: str) -> list[Work]:
        """The part of `works` between leaving and entering: the arrow's own.

        `name` is the outermost state entered.
        """
        around = self._around[name]
        out: list[Work] = []
        if self.witness is not None and (take := self.witness.taking(arrow)) is not None:
            out.append(Work(arrow, active, take, "transition", around))
        if arrow.effect is not None:
            effect = self._held(arrow.effect, arrow.effect, "effect", arrow)
            out.append(Work(arrow, active, effect, "effect", around))
        if arrow.guard is not None:
            _, marks = self._bound(arrow.guard, arrow.dest)
            out += [Work(arrow, active, mark, "effect", around) for mark in marks]
        out += [
            Work(arrow, active, hook, "transition", around, owner)
            for owner, hook in self.hooks.get("on_transition", ())
        ]
        return out

    def entering(self, arrow: Transition, name: str, active: str) -> list[Work]:
        """The part of `works` that enters one state: its mode, its enter hooks, its action."""
        hooks = [
            Work(arrow, name, self._heeded(hook), "enter", name, owner, place)
            for owner, hook, place in self._listening(f"on_enter_{name}")
        ]
        if name == FAILED:
            return hooks
        state = self.lifecycle.state(name)
        out: list[Work] = []
        if state.mode is not None:
            out.append(Work(arrow, active, self._entering[name], "mode", self._around[name]))
        meeting = self._meetings(arrow, name)
        if state.anchor:
            out += [*meeting, *hooks]
            out += [
                Work(arrow, name, hook, "anchor", name, owner)
                for owner, hook in self.hooks.get("on_anchor", ())
            ]
            meeting = []
        else:
            out += hooks
        if state.action is not None:
            out.append(Work(arrow, name, self._heeded(self._wrapped(name), False), "action", name))
        return out + meeting

    def _listening(self, hook: str) -> Iterator[tuple[str, Callable[[Any], None], int]]:
        """The owners of a hook, their functions and their places."""
        called = self.hooks.get(hook, ())
        places = self.places.get(hook, (-1,) * len(called))
        for (owner, function), place in zip(called, places, strict=True):
            yield owner, function, place

    def _meetings(self, arrow: Transition, name: str) -> list[Work]:
        """The meeting of all ranks before the row of a state is asked; none in one process."""
        if self.agreement is None or name not in self.agreement.rows:
            return []
        return [Work(arrow, name, self.agreement.meeting(name), "agree", name)]

    def _heeded(self, function: Callable[[Any], Any], hook: bool = True) -> Callable[[Any], Any]:
        """A function that may raise an event, which among several ranks is a wish."""
        if self.agreement is None:
            return function
        return heeding(function, hook)

    def reopening(self, at: str) -> tuple[Transition, list[Work]]:
        """What continuing at an anchor calls, in order, and the arrow that is published meanwhile.

        Raises:
            LifecycleError: there is no such state, or it is no anchor.
        """
        if not self.lifecycle.state(at).anchor:
            raise _not_an_anchor(self.lifecycle, at)
        arrow, out = Transition(START, at), []
        for name in self.lifecycle.path(at):
            state = self.lifecycle.state(name)
            if state.mode is not None:
                out.append(Work(arrow, name, self._entering[name], "mode", self._around[name]))
            if state.reopen is not None:
                out.append(Work(arrow, name, state.reopen, "reopen", name))
        out += [
            Work(arrow, at, hook, "resume", at, owner)
            for owner, hook in self.hooks.get("on_resume", ())
        ]
        out.append(Work(arrow, at, _settle_in, "reopen", at))
        out += self._meetings(arrow, at)
        if self.lifecycle.state(at).action is not None:
            out.append(Work(arrow, at, self._wrapped(at), "action", at))
        return arrow, out

    def _wrapped(self, name: str) -> Callable[[Any], None]:
        """A state's action as the scopes around it want it run."""
        action = self.lifecycle.state(name).action
        assert action is not None
        for scope in reversed(self.lifecycle.path(name)[:-1]):
            mode = self.lifecycle.state(scope).mode
            if mode is not None:
                action = mode.wrap(action)
        return self._held(action, self.lifecycle.state(name).action, "action", name)

    def _held(
        self, function: Callable[[Any], None], declaring: Any, kind: Doer, of: str | Transition
    ) -> Callable[[Any], None]:
        """A function that debug mode holds to what it declares; else the function itself."""
        if self.watch is None:
            return function
        return self.watch.work(function, declaring, kind, of)

    def _calls(
        self, arrow: Transition, active: str, unheard: frozenset[int]
    ) -> tuple[PlannedCall, ...]:
        key = (arrow, active, unheard)
        calls = self._laid.get(key)
        if calls is None:
            calls = self._laid[key] = tuple(map(self.call, self.works(arrow, active, unheard)))
        return calls

    def call(self, work: Work) -> PlannedCall:
        """A work as the loop calls it; `works_of` tells whose it is."""
        function = work.function
        if self._measuring:
            function = self.measured(function, work.state, work.owner)
        place = (work.transition, work.state)
        call = (place, function)
        if self.works_of.setdefault(call, work) is not work:
            # One function in two places of a way: a wrapper tells which of them raised
            call = (place, partial(function))
            self.works_of[call] = work
        return call

    def measured(
        self, function: Callable[[Any], Any], state: str, hook: str = ""
    ) -> Callable[[Any], Any]:
        """A function as the callbacks that measure want it called; itself where there are none."""
        for callback in self._measuring:
            function = callback.wrap_call(function, state, hook)
        return function

    def _row(self, name: str, is_fused: bool) -> PlanRow:
        row: PlanRow = []
        told = self._asks or not is_fused
        first = True
        for arrow in self.lifecycle.arrows(name):
            ask = None
            if arrow.guard is not None:
                ask = self.measured(self.test(arrow, told, first), name)
                first = False
            row.append((ask, *self.stretch(arrow, name, is_fused)))
        return row

    def tests_at(self, state: str) -> Iterator[tuple[Transition, Any]]:
        """The arrows out of a state, each with the test of its guard, as either loop asks it."""
        for rows in (self.fused, self.stepwise):
            for arrow, (test, _, _) in zip(self.lifecycle.arrows(state), rows[state], strict=False):
                yield arrow, test

    def test(self, arrow: Transition, told: bool, first: bool) -> Callable[[Any], bool]:
        """The test of an arrow's guard; it keeps the answers of its parts if they are wanted."""
        assert arrow.guard is not None
        if told:
            from statetrain.machine.asking import observed

            test = observed(arrow, first)
        else:
            test, _ = self._bound(arrow.guard, arrow.dest)
        if self.watch is not None:
            test = self.watch.test(arrow.guard, test, arrow)
        if self.witness is not None:
            test = self.witness.asking(arrow, test)
        return test

    def _bound(self, guard: Guard, place: str) -> _Bound:
        """The test of a guard at a place, and what it remembers there.

        Many arrows may lead to one place with one guard; they share these.
        """
        key = (id(guard), place)  # the table keeps the guard
        found = self._guards.get(key)
        if found is None:
            found = self._guards[key] = (guard.bind(place), guard.marks(place))
        return found

    def stretch(
        self,
        arrow: Transition,
        active: str,
        is_fused: bool,
        unheard: frozenset[int] = NOBODY,
    ) -> tuple[tuple[PlannedCall, ...], Landing]:
        """The calls of an arrow and, when fused, of the lone unguarded arrows that follow it.

        Returns:
            The calls, and where they lead.
        """
        calls, seen, taken = self._calls(arrow, active, unheard), {active}, [arrow]
        while is_fused and arrow.dest not in seen and len(seen) < _LONGEST:
            seen.add(arrow.dest)
            onward = self.lifecycle.arrows(arrow.dest)
            if len(onward) != 1 or onward[0].guard is not None:
                break
            arrow, active = onward[0], arrow.dest
            calls += self._calls(arrow, active, NOBODY)
            taken.append(arrow)
        return calls, ((arrow, arrow.dest), tuple(taken))


def _not_an_anchor(life: Lifecycle, at: str) -> LifecycleError:
    anchors = [repr(state.name) for state in life.states if state.anchor]
    advice = "declare one with State(..., anchor=True)"
    if anchors:
        advice = f"anchors are {', '.join(anchors)}"
    return LifecycleError(
        f"{life.name}: a run cannot be continued at {at!r}, which is not an anchor; {advice}"
    )


def _reads_stop(guard: Guard) -> bool:
    """Whether a guard declares that it reads `ctx.stop`, or is a function that names it."""
    names = getattr(getattr(guard, "function", None), "__code__", None)
    return "stop" in guard.reads or (names is not None and "stop" in names.co_names)


# ---------------------------------------------------------------- modes


@frozen
class _EnterMode:
    mode: Mode

    def __call__(self, ctx: Position) -> None:
        ctx.modes.append([self.mode, self.mode.read(ctx)])
        self.mode.begin(ctx)


def leave_mode(ctx: Position) -> None:
    """Puts back what the innermost mode has changed."""
    mode, outer = ctx.modes[-1]
    mode.write(ctx, outer)
    ctx.modes.pop()


def _settle_in(ctx: Position) -> None:
    """Puts back last, when everything is open again, what opening may have moved."""
    while ctx.reopening:
        ctx.reopening.pop(0)()
