"""Callbacks: listeners whose methods are hooks of the states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from statetrain.errors import CallbackError
from statetrain.guards.base import Guard
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State
from statetrain.naming import did_you_mean, nearest

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
    """Base of all callbacks. A callback observes; one that writes into the context declares what.

    Its methods are hooks, each with the context as the only argument and nothing returned:

    - `on_enter_<state>`: the state has become the current one; its action comes next.
    - `on_exit_<state>`: the state is being left, innermost first; what belongs to it is still
      there.

    `<state>` is a role or a name. By a role, a hook hears every state that has it: `on_enter_step`
    hears the step of each phase, `on_exit_valid` the validation and every evaluation with a name of
    its own. By the name of one state, such as `on_exit_pretrain_step` or `on_enter_test`, it hears
    that state alone, and there takes the place of the hook for the role. In the standard lifecycle
    the names are the roles. `ctx.state` says which state it is, `ctx.role` its role, and
    `ctx.scope("valid")` which evaluation is open.

    Others belong to no state:

    - `on_enter_failed`: an exception ended the run; `ctx.error` is set. It may not raise another.
    - `on_transition`: every arrow, after its effect and before anything is entered;
      `ctx.transition` is the arrow.
    - `on_anchor`: an anchor has been entered, after all enter hooks and before its action. All
      progress is in the context, so this is where runs are saved; it changes nothing there, and may
      not raise an event.
    - `on_resume`: a run is continued at an anchor, in place of all enter hooks before it: `ctx` is
      as it was saved, and scopes are open. What `on_enter_fit` set up outside of the context has
      to be set up again here.

    Within `fit`, hooks run with gradients off, in the order in which the callbacks were given,
    unless something ties two of them: who writes a field is called before who reads it on the same
    hook, and `run_after` and `run_before` say the rest. What is declared is checked when the
    machine is made;
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
    """The fields of the context that the hooks read.

    One tuple for all hooks, or a mapping from a hook's name to its own.
    """

    writes: Fields = ()
    """The fields of the context that the hooks write, declared as in `reads`.

    Columns of the history are written as `"history.<name>"`.
    """

    monitors: Iterable[str] = ()
    """The columns of the history that the hooks read.

    A column that nothing writes is an error before training.
    """

    run_after: Peers = ()
    """The callbacks that are called before this one, on every hook that both have.

    Callbacks that are not part of the run are ignored.
    """

    run_before: Peers = ()
    """The callbacks that are called after this one."""

    conflicts_with: Peers = ()
    """The callbacks that it cannot be used with."""

    commutes_with: Peers = ()
    """The callbacks whose order relative to this one does not matter, or is as given.

    This holds even if one writes what the other reads.
    """

    anywhere: bool = False
    """Whether it may be used with lifecycles that lack some of the states it listens to.

    If not, a hook of a missing state is an error.
    """

    ranks: Literal["all", "first"] = "all"
    """The ranks on which it listens.

    "first" is rank 0 alone: for callbacks that write to files or services.
    """

    asks: bool = False
    """Whether it reads `ctx.asked`: the answer of each part of each guard at the last decision.

    Recording the answers has a cost.
    """

    saves_run: bool = False
    """Whether it saves the run, so that what the run was made with is described at the start."""

    label: str = ""
    """What it is called in errors and listings; empty is its class's name."""

    wrapped: Callback | None = None
    """The callback that this one wraps, as `only_if` does.

    Its hooks are the wrapped callback's, each as `pass_on` returns it.
    """

    def pass_on(self, name: str, hook: Hook, place: str) -> Hook:
        """A hook of the wrapped callback as it is to be called; asked for when a machine is made.

        Args:
            name: of the hook as the wrapped one has it, `on_enter_<state>` or the like. It may
                hear several states.
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
        """Called for each action, hook, effect and guard when the machine is made.

        Returns what is called in its place.

        It is for those who measure: what it gives does the same as `function`, and returns what
        that returns.

        Args:
            function: of the context.
            state: during which it is called.
            hook: `<callback>.<hook>` for a callback's hook, else empty.
        """
        return function

    def destinations(self) -> Iterable[str]:
        """The paths of the files that it writes; no other callback of the run may write them.

        Of many files in a folder, one that stands for all.
        """
        return ()

    def redirect(self, folder: Path) -> None:
        """Called by `try_out` before it runs: what is written to files goes into this folder.

        A callback that writes nothing has nothing to do.

        Args:
            folder: its own, which is removed afterwards.
        """
        if self.wrapped is not None:
            self.wrapped.redirect(folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def name_of(callback: Callback) -> str:
    """The name of a callback in errors and listings: its label, else its class's name.

    A callback that wraps another one is called by the wrapped one's name.
    """
    callback = unwrapped(callback)
    label = getattr(callback, "label", "")
    if label and isinstance(label, str):
        return label
    return type(callback).__name__


def unwrapped(callback: Callback) -> Callback:
    """The callback itself, without the conditions that it was wrapped in."""
    while isinstance(inner := getattr(callback, "wrapped", None), Callback):
        callback = inner
    return callback


def hooks_of(callback: Callback, lifecycle: Lifecycle, place: str = "") -> dict[str, Hook]:
    """The hooks of a callback by the names under which states fire them.

    Each is checked against the lifecycle.

    Args:
        callback: an instance.
        lifecycle: whose states it is to hear.
        place: a name of its own among the callbacks of a machine; see `Callback.pass_on`.

    Raises:
        CallbackError: it is not a callback, or has a hook that no state fires.
    """
    functions = _functions(callback, place)
    heard = _heard(callback, functions, lifecycle)
    for written in dict.fromkeys(heard.values()):
        _check_signature(callback, written, functions[written])
    return {hook: functions[written] for hook, written in heard.items()}


def heard_hooks(callback: Callback, lifecycle: Lifecycle) -> dict[str, str]:
    """By the hook that a state fires, the name under which a callback has it; see `hooks_of`."""
    return _heard(callback, _functions(callback), lifecycle)


def _heard(callback: Callback, names: Iterable[str], lifecycle: Lifecycle) -> dict[str, str]:
    fired = _fired_hooks(lifecycle)
    heard: dict[str, str] = {}
    named: set[str] = set()  # those that are heard by a state's own name, not by its role
    for name in names:
        if name not in fired:
            _check_unheard(callback, name, lifecycle)
        _refuse_fused(callback, name, lifecycle)
        for hook, is_name in fired.get(name, ()):
            if hook in heard and (hook in named) is is_name:
                raise CallbackError(
                    f"Callback {name_of(callback)!r} has {hook!r} under two names, {name!r} is one;"
                    " keep one of them"
                )
            if is_name or hook not in named:
                heard[hook] = name
            if is_name:
                named.add(hook)
    return heard


def _say_where_to(thing: object) -> str:
    """What to write with something that is not a callback; empty if that is not known."""
    if isinstance(thing, Guard):
        return f"; {type(thing).__name__} is a guard, so write stop={type(thing).__name__}(...)"
    if isinstance(thing, str):
        return "; a text is not taken apart: callbacks=[...] is a list of instances"
    if callable(thing):
        return '; a function becomes one with @statetrain.on("exit_step")'
    return ""


def _functions(callback: Callback, place: str = "") -> dict[str, Hook]:
    """The hooks of a callback by name, with aliases resolved.

    The hooks of a callback that wraps another one are given as it passes them on.

    Raises:
        CallbackError: it is not a callback, or has a hook under two names.
    """
    if isinstance(callback, type) and issubclass(callback, Callback):
        raise CallbackError(
            f"callbacks are instances, got the class {callback.__name__}; write"
            f" {callback.__name__}()"
        )
    if not isinstance(callback, Callback):
        raise CallbackError(
            f"a callback is an instance of statetrain.Callback, got {callback!r:.200}"
            f"{_say_where_to(callback)}"
        )
    if isinstance(inner := getattr(callback, "wrapped", None), Callback):
        # A wrapper within a wrapper has a place of its own.
        return {
            name: callback.pass_on(name, hook, place)
            for name, hook in _functions(inner, f"{place} within").items()
        }
    hooks: dict[str, Hook] = {}
    for written in dir(callback):
        if not written.startswith("on_") or not callable(hook := getattr(callback, written)):
            continue
        name = ALIASES.get(written, written)
        if name in hooks:
            raise CallbackError(
                f"Callback {name_of(callback)!r} has {name!r} under two names, {written!r} is one;"
                " keep one of them"
            )
        hooks[name] = hook
    return hooks


def _fired_hooks(lifecycle: Lifecycle) -> dict[str, list[tuple[str, bool]]]:
    """The hooks of states that each hook stands for, each with whether it was by name or by role.

    The first and the last of states that are fused into one stand for entering and leaving it.
    """
    fired: dict[str, list[tuple[str, bool]]] = {name: [(name, True)] for name in _OTHERS}
    fired[f"on_enter_{FAILED}"] = [(f"on_enter_{FAILED}", True)]
    for state in lifecycle.states:
        fused = _fused_roles(state)
        for prefix, end in zip(_PREFIXES, (fused[:1], fused[-1:]), strict=True):
            names = (state.name, *(f"{_phase(state)}{role}" for role in end))
            for title in dict.fromkeys((*names, state.role, *end)):
                fired.setdefault(prefix + title, []).append((prefix + state.name, title in names))
    return fired


def _fused_roles(state: State) -> tuple[str, ...]:
    """The roles that a fused state plays one after the other; see `statetrain.standard.fusing`."""
    return tuple(getattr(state.action, "stands_for", ()))


def _phase(state: State) -> str:
    """The prefix that a phase put before a state's name."""
    return state.name.removesuffix(state.role)


def _refuse_fused(callback: Callback, name: str, lifecycle: Lifecycle) -> None:
    """Raises a `CallbackError` for a hook of a fused state, since nothing stops there."""
    for state in lifecycle.states:
        if not (fused := _fused_roles(state)):
            continue
        inner = {f"on_{way}_{role}" for role in fused for way in ("enter", "exit")}
        inner -= {f"on_enter_{fused[0]}", f"on_exit_{fused[-1]}"}
        for prefix in _PREFIXES:
            if name in inner or name.replace(f"{prefix}{_phase(state)}", prefix, 1) in inner:
                raise CallbackError(
                    f"Callback {name_of(callback)!r} listens on {name!r}, within the state"
                    f" {state.name!r} into which {', '.join(fused)} are fused; use compile='auto',"
                    " which compiles the step where nothing listens, or compile='model'"
                )


def _check_unheard(callback: Callback, name: str, lifecycle: Lifecycle) -> None:
    """Raises a `CallbackError` for a hook that no state fires.

    A hook of a state that an option adds is allowed.
    """
    known = {*lifecycle.names, *lifecycle.roles, *lifecycle.also, FAILED}
    prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
    if prefix is None:
        every = [p + state for p in _PREFIXES for state in known] + list(_OTHERS)
        raise CallbackError(
            f"Callback {name_of(callback)!r} has {name!r}: hooks are on_enter_<state> and"
            f" on_exit_<state>{nearest(name, every)}"
        )
    state = name.removeprefix(prefix)
    if state not in known and not callback.anywhere:
        _refuse_fused(callback, name, lifecycle)
        near = did_you_mean(state, known).replace("did you mean '", f"did you mean '{prefix}")
        raise CallbackError(
            f"Callback {name_of(callback)!r} has {name!r}: no state {state!r} in lifecycle"
            f" {lifecycle.name!r}{near}"
        )


# Hooks that other libraries call once a run: Keras with its logs, Lightning and Hugging Face with
# more arguments
_ONCE_ELSEWHERE = {"on_train_begin": "on_enter_fit", "on_train_end": "on_exit_fit"}


def _say_how_often(hook: Hook) -> str:
    """What a hook of another library's name is called, where it would be called less often."""
    written = getattr(hook, "__name__", "")
    if written not in _ONCE_ELSEWHERE:
        return ""
    return (
        f". Here {written} is called once an epoch, around its batches; for once a run, write"
        f" {_ONCE_ELSEWHERE[written]}"
    )


def _check_signature(callback: Callback, name: str, hook: Hook) -> None:
    if inspect.iscoroutinefunction(hook) or inspect.isgeneratorfunction(hook):
        raise CallbackError(
            f"Callback {name_of(callback)!r}: {name} is a coroutine or generator and would never"
            " run; make it a plain method"
        )
    try:
        bound = inspect.signature(hook).bind(None)
    except TypeError:
        raise CallbackError(
            f"Callback {name_of(callback)!r}: {name}{inspect.signature(hook)} must take the context"
            f" as its only argument: def {name}(self, ctx){_say_how_often(hook)}"
        ) from None
    except ValueError:
        return  # a hook written in C, whose signature cannot be seen
    if "logs" in bound.arguments and (often := _say_how_often(hook)):
        raise CallbackError(
            f"Callback {name_of(callback)!r}: {name}{inspect.signature(hook)} takes logs, as in"
            f" Keras, and would get the context: def {name}(self, ctx){often}"
        )
