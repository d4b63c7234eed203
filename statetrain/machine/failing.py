"""When something is raised: the arrow that takes it, or the end of the run.

A note says what was going on.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from statetrain.context.fields import misassigned
from statetrain.context.position import Position
from statetrain.errors import CallbackError, GuardError, LifecycleError, MachineError
from statetrain.events import Event, StopFit
from statetrain.guards.base import strict
from statetrain.lifecycle.state import FAILED, START
from statetrain.lifecycle.transition import Transition
from statetrain.machine.ending import epoch_of
from statetrain.machine.flight import cut_short, in_words, taken_last
from statetrain.machine.plan import Plan, Work, leave_mode
from statetrain.naming import did_you_mean, signature_of
from statetrain.outcome import Failed, Interrupted


def caught(
    plan: Plan, ctx: Position, error: BaseException, work: Any, ask: Any = None
) -> tuple[Transition, str, frozenset[int]]:
    """What an exception leads to.

    Args:
        plan: what is walked.
        ctx: the context.
        error: what was raised.
        work: the function that was being called, or its `Work`; None while guards were asked.
        ask: the guard's test that was being asked, if one was; or the arrow that it belongs to.

    Returns:
        The arrow that takes it; the innermost state that is open; and the callbacks that have not
        heard that it was entered.

    Raises:
        BaseException: no arrow takes it. The run is closed, and `error` is raised again.
    """
    cut_short(ctx)
    active = listening(plan, ctx, error, work)
    ctx.asked = []
    before, ctx.event = ctx.event, error  # what the guards of event arrows are asked about
    arrow = _arrow_for(plan, ctx, active, error)
    if arrow is not None:
        return arrow, active or START, plan.unheard(_place(plan, ctx, work))
    ctx.event = before
    try:
        fail(plan, ctx, error, work, ask)
    finally:
        del error  # as in `fail`


def _arrow_for(
    plan: Plan, ctx: Position, active: str | None, error: BaseException
) -> Transition | None:
    """The first arrow out of the open scopes that takes an exception."""
    if active is None:
        return None
    for arrow in plan.lifecycle.on_event(active, error):
        try:
            holds = answer(plan, ctx, arrow)
        except BaseException as second:
            fail(plan, ctx, second, None, arrow)
        if holds:
            return arrow
    return None


def listening(plan: Plan, ctx: Position, error: BaseException, work: Any) -> str | None:
    """The innermost open state from which to look for an arrow that takes an exception.

    None if no arrow may take it.
    """
    place = _place(plan, ctx, work)
    if isinstance(error, KeyboardInterrupt):
        if place is not None:
            active = place.open
        else:
            active = ctx.state or START
        try:
            _settle(plan, ctx, active)
        except BaseException as second:
            fail(plan, ctx, second, None)
        return active
    if place is not None and place.kind in ("enter", "action") and ctx.outcome is None:
        return place.open
    return None


def _settle(plan: Plan, ctx: Position, active: str) -> None:
    """Puts back the modes of scopes that were being left or entered when a person interrupted."""
    still_open = sum(
        plan.lifecycle.state(name).mode is not None
        for name in plan.lifecycle.path(active)
        if name not in (START, FAILED)
    )
    while len(ctx.modes) > still_open:
        leave_mode(ctx)


def answer(plan: Plan, ctx: Position, arrow: Transition) -> bool:
    """The answer of an arrow's guard, which is exactly True or False; True if it has none."""
    if arrow.guard is None:
        return True
    asked = [other for other in plan.lifecycle.arrows(arrow.source) if other.guard is not None]
    said = plan.measured(plan.test(arrow, True, asked[:1] == [arrow]), arrow.source)(ctx)
    if said is not True and said is not False:
        raise not_strict(plan, ctx, arrow, said)
    return said


def fail(plan: Plan, ctx: Position, error: BaseException, work: Any, ask: Any = None) -> NoReturn:
    """Closes a run that an exception ends, which no arrow takes, and raises it.

    The arguments are those of `caught`.
    """
    try:
        raise _close(plan, ctx, error, work, ask)
    finally:
        # An error refers to this frame, so it could not be freed while the frame refers to it
        del error


def _restore_modes(ctx: Position) -> list[BaseException]:
    """Restores the modes of all open scopes, and returns what was raised meanwhile."""
    raised: list[BaseException] = []
    while ctx.modes:
        mode, outer, *paused = ctx.modes.pop()
        try:
            if not paused:  # else it was restored when the pause began
                mode.write(ctx, outer)
        except BaseException as error:
            raised.append(error)
    return raised


def _enter_failed(plan: Plan, ctx: Position) -> list[BaseException]:
    """Calls the hooks of a failure, and returns what they raised."""
    raised: list[BaseException] = []
    for _, hook in plan.hooks.get("on_enter_failed", ()):
        try:
            hook(ctx)
        except BaseException as error:
            raised.append(error)
    return raised


def _close(plan: Plan, ctx: Position, error: BaseException, work: Any, ask: Any) -> BaseException:
    """Closes a run that an exception ends, and returns what is to be raised."""
    place = _place(plan, ctx, work)
    error = _unfit(plan, ctx, error, work, ask)
    where = ctx.where()  # before the modes are put back, which it depends on
    seconds = _restore_modes(ctx)
    if isinstance(error, GeneratorExit) and work is None and ask is None:
        # No component raised it: the run was closed where it pauses
        ctx.outcome = ctx.outcome or Interrupted(epoch_of(ctx), "its steps were closed")
        # Notes on the error would be lost: closing a generator swallows it
        raise_all(seconds + clean_up(ctx))
        return error
    state = ctx.state or plan.lifecycle.initial
    at = f"in state {state!r} of lifecycle {plan.lifecycle.name!r}"
    culprit = _culprit(plan, ctx, place, ask) + _misspelt(ctx, error)
    error.add_note(
        f"statetrain: {', '.join(filter(None, (at, where)))}; raised by"
        f" {culprit}\n{in_words(taken_last(ctx))}"
    )
    if wrong := misassigned(ctx):
        error.add_note(f"statetrain: a callback or an action has assigned {'; '.join(wrong)}")
    try:
        if advice := ctx.advice(error):
            error.add_note(f"statetrain: {advice}")
    except Exception as second:  # what helps may not hide what has happened
        seconds.append(second)
    ctx.error = error
    ctx.outcome = Failed(epoch_of(ctx), state, error)
    ctx.place = (ctx.transition, FAILED)
    seconds += _enter_failed(plan, ctx)
    seconds += clean_up(ctx)
    for other in seconds:
        error.add_note(f"statetrain: while closing the run, this was raised too: {other!r}")
    return error


def _unfit(plan: Plan, ctx: Position, error: BaseException, work: Any, ask: Any) -> BaseException:
    """Turns an event that no arrow takes, and a StopIteration, into an error that says so.

    Other exceptions stay as they are.
    """
    culprit = _culprit(plan, ctx, _place(plan, ctx, work), ask)
    if isinstance(error, StopIteration):
        return _chained(
            MachineError(f"StopIteration was raised by {culprit}; it never ends an epoch"), error
        )
    if not isinstance(error, Event) or ctx.outcome is not None:
        return error
    kind, active = type(error).__name__, listening(plan, ctx, error, work)
    if active is None:
        why = (
            f"{kind} was raised by {culprit}; events may be raised by actions and enter hooks only."
            f" {_say_instead(plan, ctx, error, work)}"
        )
    else:
        why = f"no open scope takes {kind}{_searched(plan, active, error)}"
    return _chained(LifecycleError(f"{plan.lifecycle.name}: {why}"), error)


def _say_instead(plan: Plan, ctx: Position, error: Event, work: Any) -> str:
    """Where an event may be raised instead, next to where it was."""
    place = _place(plan, ctx, work)
    next_one, on_event = ctx.transition.dest, plan.lifecycle.on_event
    if place is None or place.kind != "exit" or not list(on_event(next_one, error)):
        return "Here, call ctx.request_stop(reason)"
    advice = f"Raise it in on_enter_{next_one}, which comes next"
    if isinstance(error, StopFit):
        advice += ", or call ctx.request_stop(reason) here"
    return advice


def _searched(plan: Plan, active: str, error: BaseException) -> str:
    """Where an arrow for an event was looked for, and what to do."""
    kind = type(error).__name__
    false = [str(arrow) for arrow in plan.lifecycle.on_event(active, error)]
    if false:
        return (
            f": the guards of all arrows for it are false, {'; '.join(false)}; end them with one"
            " that has no guard"
        )
    searched = ", ".join(repr(scope) for scope in reversed(plan.lifecycle.path(active)))
    return f" (searched {searched}); add Transition(<scope>, <dest>, event={kind})"


def _culprit(plan: Plan, ctx: Position, place: Work | None, ask: Any) -> str:
    """Who raised, for a person."""
    if place is None:
        arrow = _asked(plan, ctx, ask)
        if arrow is None or arrow.guard is None:
            return "the machine"
        return f"the guard [{arrow.guard.label}] of {arrow.source} -> {arrow.dest}"
    if place.owner:
        return f"the hook {place.owner}"
    if place.kind == "effect":
        return f"the effect of {place.transition} ({signature_of(place.function)})"
    if place.kind == "action":
        return f"the action of {place.state!r}"
    return f"the {place.kind} work of {place.state!r}"


def _place(plan: Plan, ctx: Position, work: Any) -> Work | None:
    if work is None or isinstance(work, Work):
        return work
    return plan.works_of.get((ctx.place, work))


def _asked(plan: Plan, ctx: Position, ask: Any) -> Transition | None:
    if isinstance(ask, Transition):
        return ask
    if ask is None or ctx.state is None:
        return None
    for arrow, test in plan.tests_at(ctx.state):
        if test is ask:
            return arrow
    return None


def junk(plan: Plan, ctx: Position, work: Any) -> CallbackError:
    """The error of a call that returned something."""
    culprit = _culprit(plan, ctx, _place(plan, ctx, work), None)
    return CallbackError(
        f"{culprit} must return nothing, and returned something; let it write into the context"
        " instead"
    )


def not_strict(plan: Plan, ctx: Position, ask: Any, answer: object) -> GuardError:
    """The error of a guard that answered neither True nor False."""
    arrow = _asked(plan, ctx, ask)
    assert arrow is not None
    assert arrow.guard is not None
    try:
        strict(arrow.guard, answer)
    except GuardError as error:
        return GuardError(f"{plan.lifecycle.name}: arrow {arrow.source} -> {arrow.dest}: {error}")
    raise AssertionError("only asked about answers that are no bool")


def clean_up(ctx: Position) -> list[BaseException]:
    """Runs the deferred functions, the last first; all run though one raises."""
    errors: list[BaseException] = []
    while ctx.deferred:
        try:
            ctx.deferred.pop()()
        except BaseException as error:
            errors.append(error)
    return errors


def raise_all(errors: list[BaseException]) -> None:
    """Raises one exception as it is, several as a group."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup("several things were raised while closing the run", errors)


def _chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _misspelt(ctx: Position, error: BaseException) -> str:
    """The remedy for reading or setting a field that does not exist.

    What Python raises suggests no name.
    """
    # Newer versions continue after these
    words = rf"'{type(ctx).__name__}' object has no attribute '(\w+)'"
    found = None
    if isinstance(error, AttributeError):
        found = re.match(words, str(error))
    if not found:
        return ""
    near = did_you_mean(found[1], [name for name in dir(ctx) if not name.startswith("_")])
    # Of a hundred names, only near ones are of help
    return near if near.startswith("; did you mean") else ""
