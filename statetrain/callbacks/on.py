"""on: callbacks made of functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from statetrain.callback import Callback, Fields, Hook
from statetrain.errors import CallbackError

if TYPE_CHECKING:
    from statetrain.context.context import Context


def on(
    *events: str,
    reads: Fields | None = None,
    writes: Fields | None = None,
    monitors: Iterable[str] = (),
) -> Callable[[Hook], FunctionCallback]:
    """Makes a callback of a function, as `def on_exit_step(self, ctx)` of a class.

        @on("enter_step", writes={"grads"})
        def clip(ctx):
            clip_grad_norm_(ctx.model.parameters(), 1.0)

        fit(..., callbacks=[clip, on("exit_epoch")(lambda ctx: print(ctx.epoch, ctx.history[-1]))])

    Args:
        events: one or more: "enter_<state>", "exit_<state>", "transition", "anchor", "resume".
        reads, writes, monitors: what it declares; see `Callback`. None declares nothing, so nothing
            is checked.

    Returns:
        A decorator that takes the function of the context and gives a callback, named after the
        function. It can still be called.

    Raises:
        CallbackError: no event is named, or what is decorated is no function of the context.
    """
    if not events or not all(isinstance(event, str) for event in events):
        raise CallbackError(
            f"on takes the names of events such as 'exit_step', got {events!r}; write"
            " @on('exit_step') above the function"
        )
    hooks = tuple(event if event.startswith("on_") else f"on_{event}" for event in events)

    def make(function: Hook) -> FunctionCallback:
        return FunctionCallback(function, hooks, reads, writes, monitors)

    return make


class FunctionCallback(Callback):
    """A callback made of one function; what `on` gives."""

    shareable = True  # it keeps nothing, so several live runs may have it

    def __init__(
        self,
        function: Hook,
        hooks: Iterable[str],
        reads: Fields | None,
        writes: Fields | None,
        monitors: Iterable[str],
    ) -> None:
        if not callable(function) or isinstance(function, type | Callback):
            raise CallbackError(
                f"on makes a callback of a function of the context, got {function!r}"
            )
        self.function, self.monitors = function, monitors
        if reads is not None:
            self.reads = reads
        if writes is not None:
            self.writes = writes
        name = getattr(function, "__name__", type(function).__name__)
        self._hooks = tuple(hooks)
        if name != "<lambda>":
            self.label = name
        else:
            self.label = " and ".join(self._hooks)
        self.__doc__ = function.__doc__
        for hook in self._hooks:
            setattr(self, hook, function)

    def __call__(self, ctx: Context) -> None:
        return self.function(ctx)

    def __repr__(self) -> str:
        return (
            f"<callback {self.label!r} on"
            f" {', '.join(hook.removeprefix('on_') for hook in self._hooks)}>"
        )
