"""WandB: logs for Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from statetrain.callback import Callback
from statetrain.callbacks.logger import Counters, Items, alone
from statetrain.errors import ConfigError
from statetrain.logs.loggables import Audio, File, Histogram, Image, Loggable, Settings, Text, Value
from statetrain.logs.sources import Source
from statetrain.outcome import Failed, Outcome
from statetrain.validators import check_word, local_path

if TYPE_CHECKING:
    from statetrain.context.context import Context

_MODES = ("offline", "online", "disabled", "shared")


class WandB(Callback):
    """Writes each row of the history as a step of a run of Weights & Biases.

    Among the callbacks it logs the history; in a `Logger`, what that is told to log, of every kind.
    Curves are drawn over the column `step`; the other counters are columns, too.

    Nothing leaves the machine unless it is asked for: runs are kept in `folder`, and `wandb sync`
    sends one. A run that is continued is the same one to Weights & Biases. What an interrupted
    process wrote after the point where it resumes cannot be taken back; the steps where it did go
    on are in its settings as `resumed_at_steps`.

    Args:
        project: the project's name.
        name: the run's name; None lets wandb find one.
        folder: where runs are kept; a folder `wandb` is made there.
        mode: "offline" keeps them there, "online" sends them, "disabled" does nothing; None is the
            environment's `WANDB_MODE`, else "offline".
        options: further arguments for `wandb.init`, such as `group` and `tags`.

    Raises:
        ImportError: wandb is not installed.
        ConfigError: `mode` is none of these, or the folder cannot be written.
    """

    ranks = "first"
    anywhere = True  # it logs what is there
    reads = ("step",)  # the axis of its curves

    takes: frozenset[type] = frozenset({Value, Text, Image, Audio, Histogram, File, Settings})
    what: tuple[Source, ...] = ()

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        *,
        folder: str | os.PathLike[str] = ".",
        mode: Literal["offline", "online", "disabled", "shared"] | None = None,
        **options: Any,
    ) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ImportError("WandB needs wandb; install it with: pip install 'statetrain[wandb]'")
        if mode is not None:
            check_word("WandB: mode", mode, _MODES, also=", or None")
        self.project, self.name, self.folder = project, name, local_path("WandB", folder)
        if mode is None:
            self.mode = os.environ.get("WANDB_MODE", "offline")
        else:
            self.mode = mode
        self._options = options
        self._run: Any = None
        self._id: str | None = None
        self._step: int | None = None  # at which it wrote last
        self._resumed_at: list[int] = []
        self.wrapped = alone(self)

    def redirect(self, folder: Path) -> None:
        """Writes into another folder, and sends nothing."""
        self.folder, self.mode = folder, "offline"

    def check_context(self, ctx: Context) -> None:
        """Checks that the folder is writable."""
        self.check()

    # ------------------------------------------------------------ what a logger calls

    def check(self) -> None:
        """Makes the folder, and sees whether it can be written: wandb would turn to another one."""
        trial = self.folder / f".{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            trial.touch()
            trial.unlink()
        except (OSError, ValueError) as error:
            raise ConfigError(f"WandB cannot write into {str(self.folder)!r}: {error}") from error

    def open(self, ctx: Context, fresh: bool) -> bool:
        """Begins a run, or continues one."""
        import wandb

        there = fresh or self._id is not None
        if fresh or not there:
            self._id, self._step, self._resumed_at = None, None, []
        settings = {
            "silent": not ctx.verbose or self.mode == "offline",
            "console": "off",
            **self._options.get("settings", {}),
        }
        self._run = wandb.init(
            **{
                "project": self.project,
                "name": self.name,
                "dir": str(self.folder),
                "mode": self.mode,
                "id": self._id,
                "resume": None if self._id is None else "allow",
                "reinit": "create_new",
                **self._options,
                "settings": settings,
            }
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if self._id is not None:
            self._resumed_at.append(ctx.step)
            self._run.config.update({"resumed_at_steps": self._resumed_at}, allow_val_change=True)
        self._id = self._run.id
        return there

    def log(self, items: Items, counters: Counters) -> None:
        """Writes a step of the run."""
        import wandb

        row: dict[str, Any] = dict(counters)
        with tempfile.TemporaryDirectory() as folder:
            for name, item in items.items():
                match item:
                    case Settings():
                        self._run.config.update(item.data, allow_val_change=True)
                    case File():
                        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", name), type="file")
                        artifact.add_file(str(item.path))
                        self._run.log_artifact(artifact)
                    case _:
                        row[name] = _media(wandb, item, Path(folder) / f"{len(row)}.wav")
            if len(row) > len(counters):
                self._run.log(row)

    def close(self, outcome: Outcome | None) -> None:
        """Ends the run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=isinstance(outcome, Failed))

    def state_dict(self) -> dict[str, Any]:
        """The run's name within wandb, and where it was continued."""
        return {"id": self._id, "resumed_at": list(self._resumed_at)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._id, self._resumed_at = state["id"], list(state["resumed_at"])

    def __repr__(self) -> str:
        return f"WandB({self.project!r}, folder={str(self.folder)!r}, mode={self.mode!r})"


def _media(wandb: Any, item: Loggable, file: Path) -> Any:
    match item:
        case Image():
            return wandb.Image(item.to_pil())
        case Histogram():
            return wandb.Histogram(np_histogram=(list(item.counts), list(item.edges)))
        case Audio():
            file.write_bytes(item.wav())
            return wandb.Audio(str(file))
        case _:
            # A value or a text; the others have been dealt with
            return item.data  # type: ignore[union-attr]
