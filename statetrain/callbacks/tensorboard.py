"""TensorBoard: the history as events for TensorBoard, and histograms of the weights."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statetrain.callback import Callback
from statetrain.callbacks.logger import Counters, Items, alone
from statetrain.errors import ConfigError
from statetrain.logs.loggables import Audio, Histogram, Image, Loggable, Settings, Text, Value
from statetrain.logs.sources import Histograms, Source
from statetrain.naming import encodable
from statetrain.outcome import Outcome
from statetrain.validators import check_switches, local_path

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from statetrain.context.context import Context

_SETS = ("train", "valid")
_NO_CURVES = ("step", "epoch_complete")


class TensorBoard(Callback):
    """Writes each row of the history as scalars, at the number of steps that it was recorded at.

    Among the callbacks it logs the history; in a `Logger`, what that is told to: numbers, texts,
    pictures, sounds, histograms and settings. A vector or a matrix is a table among the texts.
    Columns of a set are grouped: `valid_loss` is called `valid/loss`. The other columns, `epoch`
    among them, keep their names. A fit that continues adds to its earlier events; events that an
    interrupted process wrote after the point where its run resumes are hidden. A new run hides
    those of others in its folder, which stay on disk.

    Args:
        logdir: the folder of this run's events; it is made if it is missing.
        histograms: whether the weights are written as histograms after each complete epoch: all of
            them, or those whose names match a pattern such as `"encoder.*"`.
        append: whether what other runs wrote into the folder is shown with a new run.

    Raises:
        ImportError: tensorboard is not installed.
        ConfigError: a pattern matches no parameter of the model, or the folder cannot be written.
    """

    ranks = "first"
    anywhere = True  # it logs what is there
    reads: Iterable[str] = ("step",)  # the axis of its curves

    takes: frozenset[type] = frozenset({Value, Text, Image, Audio, Histogram, Settings})

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        histograms: bool | str | Iterable[str] = False,
        *,
        append: bool = False,
    ) -> None:
        check_switches("TensorBoard", append=append)
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "TensorBoard needs tensorboard; install it with: pip install"
                " 'statetrain[tensorboard]'"
            )
        self.logdir, self.append = local_path("TensorBoard", logdir), append
        drawn = Histograms(weights=histograms)
        self.what: tuple[Source, ...] = (drawn,) if drawn.weights else ()
        self._writer: SummaryWriter | None = None
        self._step: int | None = None  # at which this run wrote last
        self._goes_back = False  # whether it is continued from a point that it may have been beyond
        self._alone = self.wrapped = alone(self)
        self.reads = self._alone.reads

    def destinations(self) -> tuple[str, ...]:
        """The files that it writes."""
        return (str(self.logdir / "events.out.tfevents"),)

    def redirect(self, folder: Path) -> None:
        """Writes into another folder."""
        self.logdir = folder

    def check_context(self, ctx: Context) -> None:
        """Checks that the patterns name parameters, and that the folder is writable."""
        self._alone.check_context(ctx)

    # ------------------------------------------------------------ what a logger calls

    def check(self) -> None:
        """Makes the folder, and sees whether it can be written."""
        trial = self.logdir / f".{os.getpid()}"
        try:
            self.logdir.mkdir(parents=True, exist_ok=True)
            trial.touch()
            trial.unlink()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"TensorBoard cannot write into {str(self.logdir)!r}: {error}"
            ) from error

    def open(self, ctx: Context, fresh: bool) -> bool:
        """Opens a file of events."""
        from torch.utils.tensorboard import SummaryWriter

        there = fresh or (self._step is not None and self.logdir.is_dir())
        if fresh or not there:
            self._step = None
        # Of a resumed run, what lies after its last row was written by a process that came to
        # nothing. What that wrote
        # at the very step of the last row stays; the run writes the same values there once more.
        hidden = None
        if self._goes_back and self._step is not None:
            hidden = self._step + 1
        elif fresh and not self.append and any(self.logdir.glob("events.out.tfevents.*")):
            hidden = 0
        self._writer, self._goes_back = SummaryWriter(str(self.logdir), purge_step=hidden), False
        return there

    def log(self, items: Items, counters: Counters) -> None:
        """Writes events at the number of steps."""
        assert self._writer is not None
        step = self._step = int(counters["step"])
        for name, count in counters.items():
            if name not in _NO_CURVES and not all(
                isinstance(item, Settings) for item in items.values()
            ):
                self._writer.add_scalar(name, count, step)
        for name, item in items.items():
            _add(self._writer, _tag(name), item, step)

    def close(self, outcome: Outcome | None) -> None:
        """Closes the file of events."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        """The step of the last row. The rows are in the file when this returns."""
        if self._writer is not None:
            self._writer.flush()
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._step, self._goes_back = state["step"], True

    def __repr__(self) -> str:
        drawn = None
        if self.what and isinstance(self.what[0], Histograms):
            drawn = self.what[0].weights
        return f"TensorBoard({str(self.logdir)!r}{f', histograms={drawn!r}' if drawn else ''})"


def _tag(column: str) -> str:
    name, _, metric = column.partition("_")
    if name in _SETS and metric:
        return f"{name}/{metric}"
    return column


def _add(writer: SummaryWriter, tag: str, item: Loggable, step: int) -> None:
    match item:
        case Value():
            if item.number is not None:
                writer.add_scalar(tag, item.number, step)
            else:  # of arrays there is no curve
                writer.add_text(tag, _table(item.data), step)
        case Text():
            writer.add_text(tag, encodable(item.data), step)
        case Image():
            writer.add_image(tag, item.data, step)
        case Histogram():
            writer.add_histogram_raw(
                tag,
                item.least,
                item.most,
                item.count,
                item.total,
                item.squares,
                list(item.edges[1:]),
                list(item.counts),
                step,
            )
        case Audio():
            _add_sound(writer, tag, item, step)
        case Settings():
            _add_settings(writer, item)


def _table(array: list[Any]) -> str:
    """An array as a table in Markdown: a vector as a row; of more than two dimensions, its text."""
    rows = array
    if not isinstance(array[0], list):
        rows = [array]
    if isinstance(rows[0][0], list):
        return str(array)
    head = [range(len(rows[0])), ["---"] * len(rows[0])]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [*head, *rows])


def _add_sound(writer: SummaryWriter, tag: str, sound: Audio, step: int) -> None:
    """As `add_audio` does, which takes one channel only."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    channels, length = sound.data.shape
    audio = Summary.Audio(
        sample_rate=sound.rate,
        num_channels=channels,
        length_frames=length,
        encoded_audio_string=sound.wav(),
        content_type="audio/wav",
    )
    writer._get_file_writer().add_summary(
        Summary(value=[Summary.Value(tag=tag, audio=audio)]), step
    )


def _add_settings(writer: SummaryWriter, settings: Settings) -> None:
    """As `add_hparams` does, which makes a folder of its own."""
    from torch.utils.tensorboard.summary import hparams

    plain = {
        name: value if isinstance(value, bool | int | float) else encodable(str(value))
        for name, value in settings.data.items()
    }
    for summary in hparams(plain, {}):
        writer._get_file_writer().add_summary(summary)
