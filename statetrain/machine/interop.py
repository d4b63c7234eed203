"""A lifecycle as a live machine of the `transitions` package.

`transitions` decides: its conditions ask the guards, and its nested states say what is left and
what is entered, in which order. What is called on the way is what `Machine` supplies for each state
left, for the arrow, and for each state entered. So the package is a second, independent reading of
the table: `Machine(..., engine="transitions")` drives a whole run with it, and must do the same as
the compiled table, call by call.

What `transitions` does in its own way, and what is done about it here:

- States are named by their path, `"fit/epoch/train"`, on a class of states of our own, since the
  separator belongs to the class and the usual one, `_`, may be in a name.
- It does not enter the initial state by itself. So the machine starts in `"[*]"`, and the first
  `next` leads into it.
- It sets the state before it enters the scopes around it. `ctx.state` does not: it is published
  before each call.
- It knows no work between leaving and entering. The arrow's effect is done before the first state
  is entered.
- It takes a condition for met if it `== True`. Here a guard that answers anything but True or False
  is an error.
- It logs every callback at level INFO. Here it does not. (What it says at DEBUG stays; its loggers
  are its own.)
- A trigger within a trigger would recurse, or, queued, be True whatever comes of it. Here it is an
  error.
- It binds no trigger to a model that has a name of the kind already, and says so in the log. Here
  it is an error.

Its other classes of machines, such as `GraphMachine`, can be had as well: the live machine is then
one of theirs, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from transitions import Machine as FlatMachine
from transitions.extensions import (
    GraphMachine,
    HierarchicalGraphMachine,
    LockedGraphMachine,
    LockedHierarchicalGraphMachine,
    LockedHierarchicalMachine,
    LockedMachine,
)
from transitions.extensions.asyncio import AsyncMachine
from transitions.extensions.markup import HierarchicalMarkupMachine, MarkupMachine
from transitions.extensions.nesting import (
    FunctionWrapper,
    HierarchicalMachine,
    NestedState,
    NestedTransition,
)

from statetrain.callback import Callback
from statetrain.context.position import Position
from statetrain.errors import MachineError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.transition import Transition
from statetrain.machine.engine import depart, land, make_call
from statetrain.machine.failing import answer, fail, listening
from statetrain.machine.machine import Drive, Machine
from statetrain.machine.plan import NOBODY, Work
from statetrain.naming import did_you_mean

NEXT = "next"  # the trigger of all arrows without an event
_EVENT = "event"  # the trigger of all others, when a run is driven
_SEPARATOR = "/"
# The classes of machines with flat states, and those with nested ones that do the same
_NESTED: dict[type[FlatMachine], type[HierarchicalMachine]] = {
    FlatMachine: HierarchicalMachine,
    GraphMachine: HierarchicalGraphMachine,
    LockedMachine: LockedHierarchicalMachine,
    LockedGraphMachine: LockedHierarchicalGraphMachine,
    MarkupMachine: HierarchicalMarkupMachine,
}
# What a table says, or what would change what it says
_OURS = frozenset({
    "model", "states", "initial", "transitions", "auto_transitions", "ordered_transitions",
    "send_event", "queued", "model_attribute",
})  # fmt: skip

Triggers = Iterable[tuple[str, Transition]]


def to_machine(
    lifecycle: Lifecycle,
    model: Any = None,
    callbacks: Iterable[Callback] | Callback = (),
    machine_class: type[FlatMachine] = HierarchicalMachine,
    **options: Any,
) -> HierarchicalMachine:
    """A live `transitions` machine for a lifecycle, for its triggers and tools.

        machine = to_machine(lifecycle)
        ctx = Position()
        machine.next(ctx)          # "[*]" -> the initial state
        machine.may_next(ctx)      # asks the guards, and takes nothing
        machine.StopFit(ctx)       # what StopFit would take; or StopFit(ctx, StopFit("enough"))
        machine.state              # "fit/epoch/train"
        machine.get_triggers(machine.state)

    There is one trigger, `next`, for the arrows that are asked, in the order of the table; and one
    for each class of event, by its name, for the arrows that it would take, those of its base
    classes included, the innermost scope's first. Each takes the context as its argument, and does
    what the table says: exit hooks, close work, modes, effects, enter hooks, actions. A callback
    that is added to the machine (`machine.on_enter("fit/epoch", function)`) is called with what the
    trigger was called with, after the work of the state.

    A trigger takes one arrow and no more. So what a run has beyond that, this has not: an event
    that an action raises comes out of the trigger, and it is the caller who triggers it; any other
    exception comes out as well, and nothing leads to `failed`, closes modes or runs clean-ups. A
    final state does end the run: `ctx.outcome` is set, and clean-ups run. `Machine(lifecycle,
    engine="transitions")` drives a whole run, and so does `fit(engine="transitions")`.

        from transitions.extensions import GraphMachine

        machine = to_machine(lifecycle, machine_class=GraphMachine, show_conditions=True)
        machine.get_graph().draw("lifecycle.svg", prog="dot")

    Args:
        lifecycle: the table. The machine has its arrows and takes no others.
        model: carries the triggers and the attribute `state`; None for the machine itself.
        callbacks: who watches.
        machine_class: a class of `transitions`, or your own subclass of one with nested states. Of
            a class with flat states the one with nested states is taken: for `GraphMachine`,
            `HierarchicalGraphMachine`.
        options: arguments for that class, in addition to those that the table gives.

    Raises:
        MachineError: the model cannot carry a trigger, or has something of that name already; or
            two things of the table would be called the same; or a class cannot hold the table.
    """
    table = Machine(lifecycle, callbacks)
    events = tuple(_by_class(lifecycle))
    kind = live_class(machine_class)
    _check_options(options, machine_class)
    if model is None:
        _check_names(lifecycle, events, kind, "the machine itself")
        return kind(table, events, kind.self_literal, **options)
    _check_names(lifecycle, events, model, f"the model {type(model).__name__!r}")
    return kind(table, events, model, **options)


def _check_options(options: Iterable[str], kind: type[FlatMachine]) -> None:
    """Raises a `MachineError` for an argument that a class has not, or that is not the user's."""
    known = {name for base in kind.__mro__ for name in inspect.signature(base).parameters}
    for name in options:
        if name in _OURS:
            raise MachineError(
                f"{name}= of {kind.__name__} is what the lifecycle says, or what a run needs; leave"
                " it out"
            )
        if name not in known:
            raise MachineError(
                f"{kind.__name__} takes no {name}={did_you_mean(name, known - _OURS)}"
            )


def live_class(given: type[FlatMachine]) -> type[_Live]:
    """The class of the live machines that are of a class of `transitions`, too.

    Raises:
        MachineError: it is none, or cannot hold a table.
    """
    if not isinstance(given, type) or not issubclass(given, FlatMachine):
        raise MachineError(
            f"a live machine is of a class of the `transitions` package, got {given!r:.80}; give"
            " one such as transitions.extensions.GraphMachine"
        )
    kind = _NESTED.get(given, given)
    if issubclass(kind, AsyncMachine):
        raise MachineError(
            f"{kind.__name__} awaits its callbacks, and the guards and actions of a lifecycle are"
            " plain functions; give a class without async"
        )
    if not issubclass(kind, HierarchicalMachine):
        raise MachineError(
            f"{kind.__name__} has no nested states, and a lifecycle has; derive it from a class"
            " that has: HierarchicalMachine, HierarchicalGraphMachine, LockedHierarchicalMachine"
        )
    return _joined(kind)  # type: ignore[arg-type]  # classes can be hashed


@cache
def _joined(kind: type[HierarchicalMachine]) -> type[_Live]:
    """The class of live machines that is also the given one, with arrows that are also its own."""
    if issubclass(_Live, kind):
        return _Live
    arrow = type("EngineArrow", (_EngineArrow, kind.transition_cls), {})
    return type(f"Live{kind.__name__}", (_Live, kind), {"transition_cls": arrow})


def drive(
    machine: Machine,
    ctx: Position,
    watched: bool,
    opening: tuple[Transition, list[Work]] | None = None,
) -> Drive:
    """Runs a machine with `transitions` instead of the compiled table.

    See `Machine(engine="transitions")`. `ctx.live_machine` is the live machine, also after the run.
    """
    place, life = _EnginePlace(), machine.lifecycle
    events = [(_EVENT, arrow) for arrow in life.transitions if arrow.event is not None]
    if isinstance(machine.engine, type):  # its tools look for a model
        _check_nesting(life)
        live = live_class(machine.engine)(machine, events, place)
    else:
        live = _Live(machine, events, None)
    ctx.live_machine = live
    error: BaseException | None = None  # what the arrows with an event are asked about
    work: Work | None = None
    asked: Transition | None = None
    while True:
        try:
            if opening is not None:  # a run that is continued: `transitions` is put where it was
                (arrow, works), opening = opening, None
                depart(ctx, arrow)
                live.perform(ctx, works)
                live.set_state(_path(life, arrow.dest), place)
                land(life, ctx, arrow)
            elif error is None:
                live.unheard = NOBODY
                live.trigger_event(place, NEXT, ctx)
            elif not live.offer(place, ctx, error):
                break
            error = None
            if watched:
                yield ctx.transition
            if live.get_state(place.state).final:
                return
        except BaseException as raised:
            error, work, asked = raised, live.working, live.asking
            live.working = live.asking = None
            # What the guard of an event's own arrow raises is not asked about again.
            open_ = None
            if asked is None or asked.event is None:
                open_ = listening(machine.plan, ctx, error, work)
            if open_ is None:
                fail(machine.plan, ctx, error, work, asked)
            live.set_state(_path(life, open_), place)
            live.unheard = machine.plan.unheard(work)
    fail(machine.plan, ctx, error, work, asked)


# ---------------------------------------------------------------- the live machine


class _EnginePlace:
    """The model of a run for `transitions`: it has the state.

    A context has slots, none of them for triggers, and its state is a name instead of a path.
    """

    state: str = START


class _Scope(NestedState):
    """A state that does what the table says, and then what was added to it."""

    separator = _SEPARATOR

    def enter(self, event_data: Any) -> None:
        live, ctx, arrow = event_data.machine, event_data.args[0], event_data.transition.arrow
        if not event_data.passed:
            event_data.passed = True
            live.perform(ctx, live.table.plan.passing(arrow, self.value, event_data.active))
        live.perform(ctx, live.table.plan.entering(arrow, self.value, event_data.active))
        event_data.active = self.value
        live.callbacks(self.on_enter, event_data)

    def exit(self, event_data: Any) -> None:
        live, ctx, arrow = event_data.machine, event_data.args[0], event_data.transition.arrow
        if self.value != START:
            name, active = str(self.value), event_data.active
            if name == active:
                unheard = live.unheard
            else:
                unheard = NOBODY
            live.perform(ctx, live.table.plan.leaving(arrow, name, active, unheard))
        live.callbacks(self.on_exit, event_data)


class _EngineArrow(NestedTransition):
    """An arrow of the table, and no other."""

    def __init__(
        self, source: str, dest: str, *args: Any, arrow: Transition | None = None, **kwargs: Any
    ) -> None:
        if arrow is None:
            raise MachineError(
                f"{source} -> {dest} is not in the table; edit the lifecycle, and make a machine of"
                " the new one"
            )
        super().__init__(source, dest, *args, **kwargs)
        self.arrow = arrow

    def execute(self, event_data: Any) -> bool:
        event_data.active = _leaf(event_data.model.state)  # the innermost state that is open
        event_data.passed = False  # whether the arrow's own work is done
        if not super().execute(event_data):
            return False
        land(event_data.machine.table.lifecycle, event_data.args[0], self.arrow)
        return True


class _Live(HierarchicalMachine):
    """A machine of `transitions` for a table."""

    state_cls = _Scope
    transition_cls = _EngineArrow

    def __init__(self, table: Machine, events: Triggers, model: Any, **options: Any) -> None:
        self.table = table
        self.working: Work | None = None  # what is being called
        self.asking: Transition | None = None  # whose guard is being asked
        # The callbacks that have not heard that the innermost state was entered
        self.unheard = NOBODY
        self._busy = False
        life = table.lifecycle
        ordinary = [life.start, *(arrow for arrow in life.transitions if arrow.event is None)]
        super().__init__(
            model=model,
            states=[START, *_nested(life, None), {"name": FAILED, "final": True}],
            initial=START,
            transitions=[
                self._config(trigger, arrow)
                for trigger, arrow in (*((NEXT, arrow) for arrow in ordinary), *events)
            ],
            auto_transitions=False,
            send_event=False,
            **options,
        )

    def _config(self, trigger: str, arrow: Transition) -> dict[str, Any]:
        life = self.table.lifecycle

        def holds(ctx: Position, error: BaseException | None = None) -> bool:
            if error is not None and not isinstance(error, arrow.event or BaseException):
                return False
            self.asking = arrow
            before = ctx.event
            if error is not None:  # what the guards of event arrows are asked about
                ctx.event = error
            said = answer(self.table.plan, ctx, arrow)
            if said is False:
                ctx.event = before
            self.asking = None
            return said

        def publish(ctx: Position, error: BaseException | None = None) -> None:
            depart(ctx, arrow)
            if arrow.event is not None:
                ctx.event = error
            if arrow.event is not None and error is None:
                ctx.event = arrow.event()

        conditions = []
        if arrow.event is not None:
            holds.__name__ = "raised"  # what pictures call it
            conditions = [holds]
        if arrow.guard is not None:
            holds.__name__ = arrow.guard.label
            conditions = [holds]
        return {
            "trigger": trigger,
            "source": _path(life, arrow.source),
            "dest": _path(life, arrow.dest),
            "conditions": conditions,
            "before": [publish],
            "arrow": arrow,
        }

    def perform(self, ctx: Position, works: Iterable[Work]) -> None:
        """Makes calls, and keeps the one that raised."""
        for self.working in works:
            make_call(self.table.plan, ctx, self.working)
        self.working = None

    def offer(self, model: object, ctx: Position, error: BaseException) -> bool:
        """Whether an arrow out of the open scopes takes an exception; if so, it has been taken."""
        here: str = model.state  # type: ignore[attr-defined]  # every model has it
        # A trigger that no arrow of these scopes knows would be an error to `transitions`.
        return bool(self.get_transitions(_EVENT, here, delegate=True)) and self.trigger_event(
            model, _EVENT, ctx, error
        )

    def trigger_event(self, model: object, trigger: str, *args: Any, **kwargs: Any) -> bool:
        if not args:
            raise MachineError(
                f"trigger {trigger!r} needs the context that guards and actions read:"
                f" machine.{trigger}(ctx)"
            )
        if not hasattr(args[0], "flight"):
            raise MachineError(
                f"trigger {trigger!r} needs a context, such as Position(), got {args[0]!r:.80}"
            )
        if self._busy:
            raise MachineError(
                f"trigger {trigger!r} came while an arrow was being taken; trigger it after that,"
                " or raise an event in an action"
            )
        self._busy = True
        try:
            return super().trigger_event(model, trigger, *args, **kwargs)
        finally:
            self._busy = False

    def callbacks(self, funcs: Iterable[Any], event_data: Any) -> None:
        for function in funcs:
            self.callback(function, event_data)


def _nested(life: Lifecycle, scope: str | None) -> list[dict[str, Any]]:
    inside = (state for state in life.states if state.within == scope)
    return [
        {"name": state.name, "final": state.final, "children": _nested(life, state.name)}
        for state in inside
    ]


def _path(life: Lifecycle, name: str) -> str:
    return _SEPARATOR.join(life.path(name))


def _leaf(path: str) -> str:
    return path.rsplit(_SEPARATOR, 1)[-1]


def _by_class(life: Lifecycle) -> Iterator[tuple[str, Transition]]:
    """The arrows that each class of event would take, under the name of the class."""
    arrows = [(arrow, arrow.event) for arrow in life.transitions if arrow.event is not None]
    names = {NEXT: "the trigger of arrows without an event"}
    for kind in dict.fromkeys(event for _, event in arrows):
        if kind.__name__ in names:
            raise MachineError(
                f"{life.name}: event {kind.__module__}.{kind.__qualname__} and"
                f" {names[kind.__name__]} would both be the trigger {kind.__name__!r}; rename the"
                " event"
            )
        names[kind.__name__] = f"{kind.__module__}.{kind.__qualname__}"
        yield from ((kind.__name__, arrow) for arrow, event in arrows if issubclass(kind, event))


def _check_names(life: Lifecycle, events: Triggers, carrier: Any, what: str) -> None:
    """Checks that `transitions` can bind everything.

    It would skip the rest with only a log message.
    """
    taken = [
        name for name in _bound_names(life, events) if getattr(carrier, name, None) is not None
    ]
    if taken:
        raise MachineError(
            f"{life.name}: {what} has {', '.join(map(repr, taken))} already, which `transitions`"
            " would bind; give a model of a plain class that has no such names"
        )
    _check_nesting(life)
    if isinstance(carrier, type):  # of the machine itself
        return
    try:
        carrier.trigger = None
    except AttributeError as error:
        raise MachineError(
            f"{life.name}: {what} takes no new attributes, so it cannot carry the triggers; give a"
            " model of a plain class without slots, or none, and give the context to the trigger:"
            f" machine.{NEXT}(ctx)"
        ) from error


def _check_nesting(life: Lifecycle) -> None:
    """Raises a `MachineError` for a nested state whose functions `transitions` could not bind."""
    own = {"_func", *dir(FunctionWrapper)}
    for state in life.states:
        if state.within is not None and state.name in own:
            raise MachineError(
                f"{life.name}: `transitions` cannot nest a state called {state.name!r}; rename it"
            )


def _bound_names(life: Lifecycle, events: Triggers) -> list[str]:
    """The names that `transitions` binds."""
    names = ["trigger", "may_trigger", "to"]
    for event in dict.fromkeys((NEXT, *(event for event, _ in events))):
        names += [event, f"may_{event}"]
    return names + [f"is_{name}" for name in life.children(None)]
