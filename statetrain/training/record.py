"""What travels of a run to another process: its rows and how it ended, not its model or machine."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from statetrain.context.history import History


@frozen(repr=False)
class RunRecord:
    """A run as it is unpickled.

    An error that was raised in a worker process carries its run, which holds the model, the data
    and the callbacks, and so could seldom be pickled. To send a model, use `save`.

    Attributes:
        lifecycle: the name of the lifecycle.
        outcome: how it ended, as text.
        rows: of the history.
    """

    lifecycle: str
    outcome: str
    rows: tuple[dict[str, Any], ...]

    @property
    def history(self) -> History:
        """The rows as a history."""
        return History(list(self.rows))

    def __repr__(self) -> str:
        return f"<RunRecord {self.lifecycle!r}: {self.outcome}, {len(self.rows)} rows>"
