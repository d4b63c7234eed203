"""Callbacks that are called at certain times: `only_if` a guard is true, or every n-th time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import frozen

from statetrain.callback import ALIASES, Call, Callback, Hook, name_of, unwrapped
from statetrain.errors import CallbackError
from statetrain.guards.base import Guard, Test, as_guard, strict
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean
from statetrain.validators import check_whole

if TYPE_CHECKING:
    from statetrain.context.context import Context

# In these, callbacks set up what their other hooks need
_PREPARING = frozenset(("on_enter_fit", "on_resume"))


def only_if(
    condition: Guard | Test, callback: Callback, hooks: str | Iterable[str] | None = None
) -> Callback:
    """A callback whose hooks are called only when a condition holds.

        only_if(MinEpochs(2), KeepBest("valid_loss"))                  # a guard as on an arrow
        only_if(lambda ctx: ctx.epoch > 3, EMA(), "on_exit_step")      # from the fourth epoch on
        only_if(Every(10, "epochs"), SaveWeights("runs/w"), "on_exit_record")

    It stands where the callback would stand among the others, is called by its name, and reads and
    writes what that does; what it has to remember is saved as that one's. A guard that remembers
    when it last fired, such as `Every`, remembers it for each hook, in the context, so a resumed
    run continues with it.

    Where the callback hears that a state is entered and that it is left, the condition is
    evaluated on entering alone: the callback hears the exit of what it heard enter, and only that.

    Args:
        condition: a guard, or a function of the context that answers exactly True or False.
        callback: what to call.
        hooks: which of its hooks depend on the condition, such as "on_exit_step"; the others are
            always called. None: all but `on_enter_fit` and `on_resume`, in which callbacks prepare
            themselves for the others.

    Returns:
        A callback.

    Raises:
        CallbackError: it has no such hook.
        GuardError: the condition is no guard.
    """
    _check("only_if", callback)
    guard = as_guard(condition)
    if hooks is None:
        gated = _hooks_of(callback) - _PREPARING
        shown = f"only_if([{guard.label}], {callback!r})"
    else:
        asked = hooks
        if isinstance(hooks, str):
            asked = [hooks]
        gated = frozenset(_hook("only_if", callback, name) for name in asked)
        shown = f"only_if([{guard.label}], {callback!r}, {sorted(gated)})"
    return _Wrapper(callback, shown, _Gate(gated, partial(_holding, guard)), guard)


def throttle(callback: Callback, hook: str, every: int | Guard) -> Callback:
    """A callback with one hook that is called less often; its other hooks are called as before.

        throttle(WeightHistograms(), "on_exit_step", every=100)                 # at steps 100, 200,
        ... throttle(Snapshot(), "on_exit_step", every=Every(10, "minutes"))        # at the first
        step after each 10 minutes

    A number counts the events of that hook from 1 and passes every n-th on. The count is kept in
    the context: a resumed run continues with it, and another run starts over. A guard is
    asked at each event, as by `only_if`.

    Args:
        callback: whom to call.
        hook: the name of one of its hooks, with or without `on_`.
        every: a whole number of events, at least 1; or an interval such as `Every(10, "minutes")`.

    Returns:
        A callback.

    Raises:
        CallbackError: it has no such hook, or `every` is neither.
    """
    _check("throttle", callback)
    name = _hook("throttle", callback, hook)
    if isinstance(every, Guard):
        shown = f"throttle({callback!r}, {name!r}, every=[{every.label}])"
        return _Wrapper(callback, shown, _Gate(frozenset((name,)), partial(_holding, every)), every)
    also = ', or an interval with its unit such as Every(10, "minutes")'
    check_whole("throttle: every", every, of=f"calls of {name}", also=also, error=CallbackError)
    return _Wrapper(
        callback,
        f"throttle({callback!r}, {name!r}, every={every})",
        _Gate(frozenset((name,)), partial(_every_nth, every)),
    )


class _Wrapper(Callback):
    """Stands for another callback and answers as it does; each hook goes through a gate."""

    def __init__(
        self, callback: Callback, shown: str, gate: _Gate, guard: Guard | None = None
    ) -> None:
        self.wrapped = self._callback = callback
        self._shown, self._gate = shown, gate
        # Everything that a callback declares.
        for name, default in vars(Callback).items():
            if (
                name not in ("label", "wrapped")
                and not name.startswith("_")
                and not callable(default)
            ):
                setattr(self, name, getattr(callback, name))
        if guard is None:
            return
        if isinstance(self.reads, Mapping):
            by_hook: dict[str, Any] = {}
            for name, paths in self.reads.items():
                by_hook[ALIASES.get(str(name), str(name))] = paths
            asking = {name: (*by_hook.get(name, ()), *guard.reads) for name in gate.gated}
            self.reads = by_hook | asking
        else:
            self.reads = (*self.reads, *guard.reads)
        self.monitors = (*self.monitors, *guard.monitors)

    def pass_on(self, name: str, hook: Hook, place: str) -> Hook:
        """The hook behind its gate."""
        return self._gate.guarding(name, hook, place, _hooks_of(self._callback))

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """As the callback does."""
        self._callback.check_lifecycle(lifecycle)

    def check_context(self, ctx: Context) -> None:
        """As the callback does."""
        self._callback.check_context(ctx)

    def wrap_call(self, function: Call, state: str, hook: str) -> Call:
        """As the callback does."""
        return self._callback.wrap_call(function, state, hook)

    def __repr__(self) -> str:
        return self._shown


@frozen
class _Gate:
    """Lets some hooks of a callback through at some times.

    Attributes:
        gated: the hooks that depend on it; others are let through.
        asking: of a place in which something may be remembered, a function of the context that says
            whether the hook is let through.
    """

    gated: frozenset[str]
    asking: Callable[[str], Callable[[Any], bool]]

    def guarding(self, name: str, hook: Hook, place: str, hooks: frozenset[str]) -> Hook:
        """A hook of a callback that has all these hooks, behind the gate."""
        state = name.removeprefix("on_enter_").removeprefix("on_exit_")
        enters, leaves = f"on_enter_{state}", f"on_exit_{state}"
        heard = f"{place}.{enters} was heard"
        if name == leaves and enters in hooks and enters in self.gated:
            return _following(hook, heard)
        if name not in self.gated:
            return hook
        asks = self.asking(f"{place}.{name}")
        if name == enters and leaves in hooks:
            asks = _remembering(asks, heard)

        def conditional(ctx: Context) -> None:
            if asks(ctx):
                return hook(ctx)  # what it returns is judged by the machine
            return None

        return conditional


def _following(hook: Hook, heard: str) -> Hook:
    """A hook on leaving a state, called if the one on entering it was."""

    def following(ctx: Context) -> None:
        if ctx.marks.pop(heard, 0):
            return hook(ctx)
        return None

    return following


def _remembering(asks: Callable[[Any], bool], heard: str) -> Callable[[Any], bool]:
    def ask(ctx: Context) -> bool:
        passes = asks(ctx)
        ctx.marks[heard] = int(passes)
        return passes

    return ask


def _holding(guard: Guard, place: str) -> Callable[[Any], bool]:
    """Whether a guard is true; one that remembers when it fired does so."""
    test, marks = guard.bind(place), guard.marks(place)

    def holds(ctx: Context) -> bool:
        if not strict(guard, test(ctx)):
            return False
        for mark in marks:
            mark(ctx)
        return True

    return holds


def _every_nth(n: int, place: str) -> Callable[[Any], bool]:
    """Whether this is the n-th call since the last one."""

    def is_nth(ctx: Context) -> bool:
        ctx.marks[place] = count = ctx.marks.get(place, 0) + 1
        return bool(count % n == 0)

    return is_nth


def _hooks_of(callback: Callback) -> frozenset[str]:
    """The hooks that a callback has, by the names that states fire."""
    inner = unwrapped(callback)
    return frozenset(
        ALIASES.get(name, name)
        for name in dir(inner)
        if name.startswith("on_") and callable(getattr(inner, name))
    )


def _check(function: str, callback: Any) -> None:
    """Raises a `CallbackError` unless it is given a callback that is one instance."""
    if not isinstance(callback, Callback):
        if isinstance(callback, type):
            hint = f"; write {callback.__name__}()"
        elif callable(callback):
            hint = "; make one of a function with on(...)"
        else:
            hint = ""
        raise CallbackError(f"{function} takes a callback, got {callback!r}{hint}")


def _hook(function: str, callback: Callback, name: str) -> str:
    """The full name of a callback's hook; "exit_step" is short for "on_exit_step", as in `on`."""
    inner = unwrapped(callback)
    if not name.startswith("on_"):
        name = f"on_{name}"
    known = [
        written
        for written in dir(inner)
        if written.startswith("on_") and callable(getattr(inner, written))
    ]
    if name not in known and (name := ALIASES.get(name, name)) not in {
        ALIASES.get(one, one) for one in known
    }:
        raise CallbackError(
            f"{function}: callback {name_of(callback)!r} has no hook"
            f" {name!r}{did_you_mean(name, known)}"
        )
    return ALIASES.get(name, name)
