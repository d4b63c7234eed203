"""Callbacks: listeners whose methods are hooks of the states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from statetrain.errors import CallbackError
from statetrain.lifecycle.lifecycle import FAILED, Lifecycle, State
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    from statetrain.context.context import Context

Hook = Callable[[Any], None]
Call = Callable[[Any], Any]
Fields = Iterable[str] | Mapping[str, Iterable[str]]
Peers = Iterable["type[Callback] | str"] | type["Callback"] | str  # classes, or their names

_PREFIXES = ("on_enter_", "on_exit_")
_OTHERS = ("on_transition", "on_anchor", "on_resume")

ALIASES = {
    "on_fit_begin": "on_enter_fit",
    "on_fit_end": "on_exit_fit",
    "on_epoch_begin": "on_enter_epoch",
    "on_epoch_end": "on_exit_epoch",
    "on_train_begin": "on_enter_train",
    "on_train_end": "on_exit_train",
    "on_train_batch_begin": "on_enter_batch",
    "on_train_batch_after_pred": "on_exit_pred",
    "on_train_batch_after_loss": "on_exit_loss",
    "on_train_batch_before_backward": "on_enter_backward",
    "on_train_batch_before_step": "on_enter_step",
    "on_train_batch_after_step": "on_exit_step",
    "on_train_batch_end": "on_exit_batch",
    "on_valid_begin": "on_enter_valid",
    "on_valid_end": "on_exit_valid",
    "on_valid_batch_begin": "on_enter_valid_batch",
    "on_valid_batch_after_pred": "on_exit_valid_pred",
    "on_valid_batch_after_loss": "on_exit_valid_loss",
    "on_valid_batch_end": "on_exit_valid_batch",
    "on_predict_begin": "on_enter_predict",
    "on_predict_end": "on_exit_predict",
    "on_predict_batch_begin": "on_enter_predict_batch",
    "on_predict_batch_end": "on_exit_predict_batch",
}
"""The breakpoints' names that people know from luz, and the hooks that they stand for."""


class Callback:
    """Base of all callbacks. A callback looks on; one that writes into the context declares what.

    Its methods are hooks, each with the context as the only argument and nothing returned:

    - `on_enter_<state>`: the state has become the current one; its action comes next.
    - `on_exit_<state>`: the state is being left, innermost first; what belongs to it is still
        there.
    - `on_enter_failed`: an exception ended the run; `ctx.error` is set. It may not raise another.
    - `on_transition`: every arrow, after its effect and before anything is entered;
        `ctx.transition` is the arrow.
    - `on_anchor`: an anchor has been entered, after all enter hooks and before its action. All
      progress is in the context, so this is where runs are saved; it changes nothing there, and may
      not raise an event.
    - `on_resume`: a run is continued at an anchor, in place of all enter hooks before it: `ctx` is
      as it was saved, and scopes are open. What `on_enter_fit` set up beside the context has to be
      set up again here.

    Hooks run with gradients off, in the order in which the callbacks were given, unless something
    ties two of them: who writes a field is called before who reads it on the same hook, and
    `run_after` and `run_before` say the rest. What is declared is checked when the machine is made;
    see docs/contracts.md.

    What a callback has to remember when a run is continued, it gives with `state_dict()` and takes
    back with `load_state_dict(state)`, which is called before `on_resume`: plain data and tensors,
    nested in lists, tuples and dicts.

        class ClipGrad(Callback):
            writes = {"grads"}

            def on_enter_step(self, ctx):
                clip_grad_norm_(ctx.model.parameters(), 1.0)
    """

    reads: Fields = ()
    """The fields of the context that the hooks read: for all of them, or a mapping of a hook's name to its own."""

    writes: Fields = ()
    """The fields of the context that the hooks write, likewise; columns of the history as `"history.<name>"`."""

    monitors: Iterable[str] = ()
    """The columns of the history that the hooks read; one that nothing writes is an error before training."""

    run_after: Peers = ()
    """The callbacks that are called before this one on every hook that both have; those that are not there do not count."""

    run_before: Peers = ()
    """The callbacks that are called after this one."""

    conflicts_with: Peers = ()
    """The callbacks that it cannot be used with."""

    commutes_with: Peers = ()
    """The callbacks with which the order does not matter, or is as given, though one writes what the other uses."""

    anywhere: bool = False
    """Whether it may serve lifecycles that have not all the states it listens to; else such a hook is an error."""

    asks: bool = False
    """Whether it reads `ctx.asked`: what each part of each guard answered at the last decision. Writing that down costs."""

    label: str = ""
    """What it is called in errors and listings; empty is its class's name."""

    wrapped: Callback | None = None
    """The callback that this one stands for, as `only_if` does; its hooks are that one's, each as `pass_on` gives it."""

    def pass_on(self, name: str, hook: Hook, place: str) -> Hook:
        """A hook of the wrapped callback as it is to be called; asked for when a machine is made.

        Args:
            name: of the hook, `on_enter_<state>` or the like.
            hook: the wrapped one's.
            place: a name of its own among the machine's callbacks, under which something may be
                kept in `ctx.marks`.
        """
        return hook

    def check_lifecycle(self, lifecycle: Lifecycle) -> None:
        """Called when a machine is made of it.

        Raises:
            CallbackError: the lifecycle has not what the callback was told to look at.
        """

    def check_context(self, ctx: Context) -> None:
        """Called by `fit` when everything is known and before anything runs.

        Raises:
            ConfigError: the callback cannot serve this run.
        """

    def wrap_call(self, function: Call, state: str, hook: str) -> Call:
        """Called for each action, hook, effect and guard when the machine is made; gives what is called in its place.

        It is for those who measure: what it gives does the same as `function`, and returns what
        that returns.

        Args:
            function: of the context.
            state: during which it is called.
            hook: `<callback>.<hook>` for a callback's hook, else empty.
        """
        return function

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def name_of(callback: Callback) -> str:
    """What a callback is called in errors and listings: its label, else its class's name; of one that wraps another, that one's."""
    callback = unwrapped(callback)
    label = getattr(callback, "label", "")
    return label if label and isinstance(label, str) else type(callback).__name__


def unwrapped(callback: Callback) -> Callback:
    """The callback itself, without the conditions that it was wrapped in."""
    while isinstance(inner := getattr(callback, "wrapped", None), Callback):
        callback = inner
    return callback


def hooks_of(callback: Callback, lifecycle: Lifecycle, place: str = "") -> dict[str, Hook]:
    """The hooks of a callback by name, each checked against the lifecycle.

    Args:
        callback: an instance.
        lifecycle: whose states it is to hear.
        place: a name of its own among the callbacks of a machine; see `Callback.pass_on`.

    Raises:
        CallbackError: it is no callback, or has a hook that no state bears.
    """
    if isinstance(callback, type) and issubclass(callback, Callback):
        raise CallbackError(
            f"callbacks are instances, got the class {callback.__name__}; write"
            f" {callback.__name__}()"
        )
    if not isinstance(callback, Callback):
        raise CallbackError(f"a callback is an instance of statetrain.Callback, got {callback!r}")
    if isinstance(inner := getattr(callback, "wrapped", None), Callback):
        # A wrapper within a wrapper has a place of its own.
        return {
            name: callback.pass_on(name, hook, place)
            for name, hook in hooks_of(inner, lifecycle, f"{place} within").items()
        }
    known = {*lifecycle.names, *lifecycle.also, FAILED}
    hooks: dict[str, Hook] = {}
    for written in dir(callback):
        if not written.startswith("on_") or not callable(hook := getattr(callback, written)):
            continue
        name = heard_as(written, lifecycle)
        if not _is_heard(callback, name, lifecycle, known):
            continue
        if name in hooks:
            raise CallbackError(
                f"Callback {name_of(callback)!r} has {name!r} under two names, {written!r} is one;"
                " keep one of them"
            )
        _check_signature(callback, written, hook)
        hooks[name] = hook
    return hooks


def heard_as(name: str, lifecycle: Lifecycle) -> str:
    """The hook that a name stands for: one of luz's names, or the first or the last of states that are fused into one."""
    name = ALIASES.get(name, name)
    for state in lifecycle.states:
        if fused := _fused(state):
            name = {
                f"on_enter_{fused[0]}": f"on_enter_{state.name}",
                f"on_exit_{fused[-1]}": f"on_exit_{state.name}",
            }.get(name, name)
    return name


def _fused(state: State) -> tuple[str, ...]:
    """The names of the states that one stands for, as a phase calls them; see `statetrain.standard.fusing`."""
    return tuple(
        f"{state.name.removesuffix('update')}{name}"
        for name in getattr(state.action, "stands_for", ())
    )


def _refuse_fused(callback: Callback, name: str, lifecycle: Lifecycle) -> None:
    """Raises a `CallbackError` for a hook of a state that is fused with others: nothing stops there."""
    for state in lifecycle.states:
        if name.removeprefix("on_enter_").removeprefix("on_exit_") in (fused := _fused(state)):
            raise CallbackError(
                f"Callback {name_of(callback)!r} listens on {name!r}, within the state"
                f" {state.name!r} into which {', '.join(fused)} are fused; train without"
                " fused=True, or with fused='auto', which fuses where nobody listens"
            )


def _is_heard(callback: Callback, name: str, lifecycle: Lifecycle, known: set[str]) -> bool:
    """Whether a state of this lifecycle fires a hook.

    Raises:
        CallbackError: no state ever could.
    """
    if name in _OTHERS:
        return True
    prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
    if prefix is None:
        every = [p + state for p in _PREFIXES for state in known] + list(_OTHERS)
        near = did_you_mean(name, every)
        raise CallbackError(
            f"Callback {name_of(callback)!r} has {name!r}: hooks are on_enter_<state> and"
            f" on_exit_<state>{near if near.startswith('; did you mean') else ''}"
        )
    state = name.removeprefix(prefix)
    if state not in lifecycle.names:
        _refuse_fused(callback, name, lifecycle)
    if state not in known and not callback.anywhere:
        near = did_you_mean(state, known).replace("did you mean '", f"did you mean '{prefix}")
        raise CallbackError(
            f"Callback {name_of(callback)!r} has {name!r}: no state {state!r} in lifecycle"
            f" {lifecycle.name!r}{near}"
        )
    return state in lifecycle.names or state == FAILED


def _check_signature(callback: Callback, name: str, hook: Hook) -> None:
    if inspect.iscoroutinefunction(hook) or inspect.isgeneratorfunction(hook):
        raise CallbackError(
            f"Callback {name_of(callback)!r}: {name} is a coroutine or generator and would never"
            " run; make it a plain method"
        )
    try:
        inspect.signature(hook).bind(None)
    except TypeError:
        raise CallbackError(
            f"Callback {name_of(callback)!r}: {name}{inspect.signature(hook)} must take the context"
            f" as its only argument: def {name}(self, ctx)"
        ) from None
    except ValueError:
        return  # a hook written in C, whose signature cannot be seen
