"""A run of this process that is walked from a page: steps, breakpoints, a request to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from attrs import Factory, define, field

from statetrain.contracts.notes import notes_of
from statetrain.live.chronicle import Chronicle, words_of_outcome
from statetrain.live.serving import Page, Server, serve
from statetrain.machine.steps import Steps
from statetrain.trace.tape import COUNTERS


class Walked(Protocol):
    """A run that can be walked one transition at a time."""

    @property
    def machine(self) -> Any:
        """What it walks."""

    @property
    def ctx(self) -> Any:
        """Its context."""

    def steps(self) -> Steps:
        """The walk."""


@define(eq=False)
class _Walk:
    """A run, and what its page asked for."""

    run: Walked
    chronicle: Chronicle
    name: str = "run"
    asked: SimpleQueue[dict[str, Any]] = Factory(SimpleQueue)
    breakpoints: frozenset[str] = field(default=frozenset(), init=False)
    left: float = field(default=0, init=False)  # transitions until the next pause
    seconds: float = field(default=0.0, init=False)  # that its transitions have taken
    counted: bool = field(init=False)  # whether its context has the usual counters
    losses: frozenset[str] = field(init=False)  # the states that compute a loss

    @counted.default
    def _has_counters(self) -> bool:
        return all(hasattr(self.run.ctx, name) for name in COUNTERS)

    @losses.default
    def _states_of_losses(self) -> frozenset[str]:
        if not hasattr(self.run.ctx, "loss_value"):
            return frozenset()
        return frozenset(state.name for state in self.chronicle.life.by_role("loss"))

    def look(self) -> Chronicle:
        """What is known of the run by now."""
        return self.chronicle

    def status(self) -> str:
        """Whether it waits for the page."""
        if self.left:
            return "running"
        return "paused"

    def tell(self, what: dict[str, Any]) -> str:
        """Takes what a button asks for; called in the server's thread."""
        if what["do"] not in ("step", "go", "pause", "stop", "break"):
            raise ValueError(f"do must be step, go, pause, stop or break, got {what['do']!r}")
        self.asked.put(what)
        return "done"

    def obey(self, what: dict[str, Any]) -> None:
        """Does what was asked for; called in the thread of the run."""
        if what["do"] == "break":
            self.breakpoints = frozenset(map(str, what["states"]))
        elif what["do"] == "stop":
            self.run.ctx.request_stop("asked for on the page")
        self.left = {"step": 1, "go": float("inf"), "stop": float("inf"), "pause": 0}.get(
            what["do"], self.left
        )

    def wait(self) -> None:
        """Obeys what was asked for, and waits while the run is paused."""
        while True:
            try:
                self.obey(self.asked.get(block=not self.left))
            except Empty:
                return

    def note(self, state: str) -> None:
        """Notes where the run stands: its counters, and a loss that has just been computed."""
        ctx, place = self.run.ctx, len(self.chronicle.path)
        if self.counted:
            self.chronicle.counters.add([place, *(getattr(ctx, name) for name in COUNTERS)])
        if state in self.losses:
            self.chronicle.value("loss_value", [place, float(ctx.loss_value)])

    def note_seconds(self, seconds: float) -> None:
        """Notes how long the last transition took, without the pause before it."""
        place = len(self.chronicle.path)
        self.seconds += seconds
        self.chronicle.clock.add([place, round(self.seconds, 6)])
        self.chronicle.spend({self.chronicle.path[-1]: seconds}, place)

    def walk(self) -> None:
        """Walks the run to its end."""
        rows = 0
        history = self.run.ctx.history
        with self.run.steps() as steps:
            while True:
                self.wait()
                began = time.perf_counter()
                arrow = next(steps, None)
                seconds = time.perf_counter() - began
                if arrow is None:
                    return
                self.chronicle.take(arrow, rows, history.rows)
                self.note_seconds(seconds)
                self.note(arrow.dest)
                rows = len(history.rows)
                self.left -= 1
                if arrow.dest in self.breakpoints:
                    self.left = 0


def control(run: Walked, port: int = 0, opened: Callable[[str], object] = print) -> Server:
    """Walks a run that has not begun from a page in a browser, and returns when the run has ended.

    Args:
        run: from `fit(..., start=False)`.
        port: of the page; 0 takes a free one.
        opened: what is called with the page's address.

    Returns:
        The server, which shows how the run ended until it is closed.

    Raises:
        BaseException: what was raised in the run.
    """
    machine = run.machine
    notes = notes_of(machine.dataflow(), machine.outline())
    walk = _Walk(run, Chronicle(machine.lifecycle, notes))
    server = serve(Page([walk], walk.tell, "steps"), port)
    opened(server.url)
    try:
        walk.walk()
    finally:
        outcome = run.ctx.outcome
        if outcome is not None:
            walk.chronicle.outcome = words_of_outcome(outcome, str(run.ctx.error or ""))
        walk.left = 1
    return server
