"""A callback that writes down which hooks were called, in order, and what it saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    from statetrain.context.context import Context


class Heard(NamedTuple):
    """A hook that was called.

    Attributes:
        hook: its name.
        values: what the context held, by path.
    """

    hook: str
    values: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"{self.hook}({', '.join(f'{path}={value!r}' for path, value in self.values.items())})"
        )


class Recording(Callback):
    """Records the hooks of a run, in order, with chosen values.

        heard = Recording(values=("epoch", "iter"))
        toy.fit(epochs=1, callbacks=heard)
        assert heard.hooks[:2] == ["on_enter_fit", "on_enter_next_epoch"]

    Args:
        of: the lifecycle whose hooks are recorded; None is the standard ones, with whatever
            options.
        only: hooks to record; None is all that belong to a state, without `on_transition`,
            `on_anchor` and `on_resume`.
        values: paths into the context (`"epoch"`, `"history[-1].valid_loss"`) that are read at each
            call; what is not there yet is None. Tensors are kept as they are, not copied.

    Attributes:
        calls: what was heard. A new run appends to it; `calls.clear()` starts afresh.

    Raises:
        ConfigError: `only` names a hook that there is not.
    """

    anywhere = True

    def __init__(
        self,
        of: Lifecycle | None = None,
        *,
        only: Iterable[str] | None = None,
        values: Iterable[str] = (),
    ) -> None:
        from statetrain.standard.table import (
            STANDARD,
        )  # of a higher floor, so looked up when it is asked for

        names: Iterable[str] = sorted(STANDARD)
        if of is not None:
            names = of.names
        own = [f"on_{when}_{name}" for when in ("enter", "exit") for name in names] + [
            f"on_enter_{FAILED}"
        ]
        known = [*own, "on_transition", "on_anchor", "on_resume"]
        if only is None:
            chosen = own
        else:
            chosen = list(only)
        for hook in chosen:
            if hook not in known:
                raise ConfigError(f"Recording: no hook {hook!r}{did_you_mean(hook, known)}")
        self.calls: list[Heard] = []
        self.values = tuple(values)
        for hook in chosen:
            setattr(self, hook, self._noting(hook))

    def _noting(self, hook: str) -> Callable[[Any], None]:
        def note(ctx: Context) -> None:
            self.calls.append(Heard(hook, {path: _value(ctx, path) for path in self.values}))

        return note

    @property
    def hooks(self) -> list[str]:
        """The names of the hooks that were called, in order."""
        return [call.hook for call in self.calls]

    def of(self, hook: str) -> list[dict[str, Any]]:
        """The values at each call of one hook."""
        return [call.values for call in self.calls if call.hook == hook]

    def __str__(self) -> str:
        return "\n".join(map(str, self.calls))


def _value(ctx: Context, path: str) -> Any:
    try:
        if path.isidentifier():
            return getattr(ctx, path)
        return ctx[path]
    except (KeyError, IndexError, TypeError):  # not there yet
        return None
