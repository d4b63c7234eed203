"""Guards on requests: whether the run was asked to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from statetrain.errors import ConfigError
from statetrain.guards.base import Guard, Test, guard

if TYPE_CHECKING:
    from statetrain.context.context import Context


@frozen
class StopRequested(Guard):
    """True when someone called `ctx.request_stop(reason)`, as the handlers of signals do."""

    reads = frozenset({"stop"})
    prompt = True
    agree = "any"

    @property
    def label(self) -> str:
        return "stop requested"

    def test(self, ctx: Context) -> bool:
        return ctx.stop is not None

    def bind(self, place: str) -> Test:
        return _stop_requested

    def reason(self, ctx: Context) -> str:
        if not isinstance(ctx.stop, str | None):
            raise ConfigError(
                f"ctx.stop must be the reason as a text, got {ctx.stop!r:.80}; write"
                " ctx.request_stop(reason)"
            )
        return ctx.stop or self.label


stop_requested = StopRequested()


def _stop_requested(ctx: Context) -> bool:
    return ctx.stop is not None


@guard(reads={"interrupt"}, agree="any")
def interrupted(ctx: Context) -> bool:
    "interrupted"
    return ctx.interrupt is not None
