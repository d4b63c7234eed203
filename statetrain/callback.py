"""Callbacks: listeners whose methods are hooks of the states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from statetrain.lifecycle import FAILED, Lifecycle
from statetrain.naming import did_you_mean
from statetrain.outcome import CallbackError

Hook = Callable[[Any], None]

_PREFIXES = {"on_enter_": "enter", "on_exit_": "exit"}
_OTHERS = ("on_transition",)


class Callback:
    """Base of all callbacks. A callback looks on; one that writes into the context declares what.

    Its methods are hooks, each with the context as the only argument and nothing returned:

    - `on_enter_<state>`: the state has become the current one; its action comes next.
    - `on_exit_<state>`: the state is being left, innermost first; what belongs to it is still there.
    - `on_enter_failed`: an exception ended the run; `ctx.error` is set. It may not raise another.
    - `on_transition`: every arrow, after its effect and before anything is entered; `ctx.transition` is the arrow.

    Hooks run with gradients off, in the order in which the callbacks were given.

        class ClipGrad(Callback):
            writes = {"grads"}

            def on_enter_step(self, ctx):
                clip_grad_norm_(ctx.model.parameters(), 1.0)
    """

    reads: ClassVar[Iterable[str]] = ()
    """The fields of the context that the hooks read."""

    writes: ClassVar[Iterable[str]] = ()
    """The fields of the context that the hooks write; columns of the history as `"history.<name>"`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def name_of(callback: Callback) -> str:
    """What a callback is called in errors and listings: its class's name."""
    return type(callback).__name__


def hooks_of(callback: Callback, lifecycle: Lifecycle) -> dict[str, Hook]:
    """The hooks of a callback by name, each checked against the lifecycle.

    Raises:
        CallbackError: it is no callback, or has a hook that no state bears.
    """
    if isinstance(callback, type) and issubclass(callback, Callback):
        raise CallbackError(f"callbacks are instances, got the class {callback.__name__}; write {callback.__name__}()")
    if not isinstance(callback, Callback):
        raise CallbackError(f"a callback is an instance of statetrain.Callback, got {callback!r}")
    known = {*lifecycle.names, *lifecycle.also, FAILED}
    hooks: dict[str, Hook] = {}
    for name in dir(callback):
        if not name.startswith("on_"):
            continue
        hook = getattr(callback, name)
        if not callable(hook):
            continue
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if name not in _OTHERS:
            if prefix is None:
                every = [p + state for p in _PREFIXES for state in known] + list(_OTHERS)
                raise CallbackError(
                    f"Callback {name_of(callback)!r} has {name!r}: hooks are on_enter_<state> and on_exit_<state>"
                    f"{_nearest(name, every)}"
                )
            state = name.removeprefix(prefix)
            if state not in known:
                near = did_you_mean(state, known)
                if near.startswith("; did you mean"):
                    near = near.replace("mean '", f"mean '{prefix}")
                raise CallbackError(
                    f"Callback {name_of(callback)!r} has {name!r}: no state {state!r} in lifecycle {lifecycle.name!r}{near}"
                )
            if state not in lifecycle.names and state != FAILED:
                continue
        _check_signature(callback, name, hook)
        hooks[name] = hook
    return hooks


def _nearest(name: str, hooks: list[str]) -> str:
    near = did_you_mean(name, hooks)
    return near if near.startswith("; did you mean") else ""


def _check_signature(callback: Callback, name: str, hook: Hook) -> None:
    if inspect.iscoroutinefunction(hook) or inspect.isgeneratorfunction(hook):
        raise CallbackError(f"Callback {name_of(callback)!r}: {name} is a coroutine or generator and would never run; make it a plain method")
    try:
        inspect.signature(hook).bind(None)
    except TypeError:
        raise CallbackError(
            f"Callback {name_of(callback)!r}: {name}{inspect.signature(hook)} must take the context as its only argument: "
            f"def {name}(self, ctx)"
        ) from None
    except ValueError:
        return  # a hook written in C, whose signature cannot be seen
