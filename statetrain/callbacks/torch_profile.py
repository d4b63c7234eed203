"""TorchProfile: torch's profiler, on a schedule of batches."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from statetrain.callback import Callback
from statetrain.errors import ConfigError
from statetrain.validators import check_whole, local_path

if TYPE_CHECKING:
    from statetrain.context.context import Context


class TorchProfile(Callback):
    """Runs `torch.profiler` for some batches, and writes what it found.

        profile = st.TorchProfile("runs/profile", wait=5, warmup=1, active=3)
        st.fit(..., callbacks=profile)
        print(profile.table)            # the operators that took longest

    A cycle is so many batches that are left alone, so many that warm the profiler up, and so many
    that are recorded, with all that lies between them: drawing, hooks, a validation. For each cycle
    there is a file, which https://ui.perfetto.dev and chrome://tracing show. The recording slows
    those batches down; the weights are what they are without it.

    (`Profile` measures states and hooks for a whole run, at next to no cost.)

    Args:
        folder: for the files, `batch-<number of the last one>.json`; it is made if it is missing.
        wait, warmup, active: batches of a cycle, at least 0, 1 and 1.
        repeat: cycles, at least 1.
        options: of `torch.profiler.profile`: `activities`, `record_shapes`, `profile_memory`,
            `with_stack`, `with_flops`, ...

    Attributes:
        files: that were written by this fit.
        table: the operators of all cycles by the time that they took, as text; "" before.

    Raises:
        ConfigError: a number is out of range, or an option is one that this sets itself.
    """

    ranks = "first"
    reads = ("batches",)

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        wait: int = 1,
        warmup: int = 1,
        active: int = 3,
        repeat: int = 1,
        **options: Any,
    ) -> None:
        for name, value, least in (
            ("wait", wait, 0),
            ("warmup", warmup, 1),
            ("active", active, 1),
            ("repeat", repeat, 1),
        ):
            check_whole(f"TorchProfile: {name}", value, least)
        if own := {"schedule", "on_trace_ready"} & set(options):
            raise ConfigError(
                f"TorchProfile sets {min(own)} itself, from wait=, warmup=, active= and repeat="
            )
        self.folder = local_path("TorchProfile", folder)
        self.files: list[Path] = []
        self.table = ""
        self._cycle = {"wait": wait, "warmup": warmup, "active": active, "repeat": repeat}
        self._options = options
        self._profiler: Any = None

    def destinations(self) -> tuple[str, ...]:
        """The files that it writes."""
        return (str(self.folder / "batch.json"),)

    def redirect(self, folder: Path) -> None:
        """Writes into another folder."""
        self.folder = folder

    def check_context(self, ctx: Context) -> None:
        """Makes the folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"TorchProfile cannot write into {str(self.folder)!r}: {error}"
            ) from error

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Starts the profiler."""
        if self._profiler is not None:  # a later phase
            return
        self.files = []
        self._profiler = torch.profiler.profile(
            schedule=torch.profiler.schedule(**self._cycle),
            on_trace_ready=partial(self._write, ctx),
            **{"acc_events": self._cycle["repeat"] > 1, **self._options},
        )
        self._profiler.start()
        ctx.defer(self._stop)

    def on_resume(self, ctx: Context) -> None:
        """Starts it, where a run is resumed."""
        self.on_enter_fit(ctx)

    def on_exit_batch(self, ctx: Context) -> None:
        """Advances to the next batch of the cycle."""
        self._profiler.step()

    def _stop(self) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()

    def _write(self, ctx: Context, profiler: Any) -> None:
        self.table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20)
        path = self.folder / f"batch-{ctx.batches}.json"
        profiler.export_chrome_trace(str(path))
        self.files.append(path)

    def __getstate__(self) -> dict[str, Any]:
        """Without the profiler."""
        return {**self.__dict__, "_profiler": None}

    def __repr__(self) -> str:
        return f"TorchProfile({str(self.folder)!r})"
