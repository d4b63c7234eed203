"""A checkpoint on its way to the disk, written here or by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from attrs import define

from statetrain.checkpoints import checkpoint, plain
from statetrain.checkpoints.checkpoint import Log, Saved
from statetrain.checkpoints.snapshot import Snapshot
from statetrain.checkpoints.together import write_together
from statetrain.machine.agreeing import Group


@define(eq=False)
class CheckpointWriting:
    """A checkpoint that is being written.

    Args:
        write: writes it.
        promised: what it will be, to compare values before it is written.
        began: by the clock, when the copy was begun.
        clock: seconds.
    """

    write: Callable[[], Saved]
    promised: Saved
    began: float
    clock: Callable[[], float]
    seconds: float = 0.0  # that it took
    _thread: threading.Thread | None = None
    _saved: Saved | None = None
    _error: BaseException | None = None

    def start(self, in_background: bool) -> None:
        """Writes, in a thread or here."""
        if in_background:
            self._thread = threading.Thread(target=self._work, name="statetrain checkpoint")
            self._thread.start()
        else:
            self._work()

    def _work(self) -> None:
        try:
            self._saved = self.write()
        except BaseException as error:
            self._error = error
        self.seconds = self.clock() - self.began

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended, if there is one."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Waits until it is over."""
        if self._thread is not None:
            self._thread.join()

    def result(self) -> Saved:
        """What was written, once it is; raises what the writing raised."""
        if self._error is not None:
            raise self._error
        assert self._saved is not None
        return self._saved


def writer_of(
    promised: Saved,
    data: Snapshot,
    lines: Log | None,
    in_background: bool,
    together: Group | None,
    check: Callable[[], None],
) -> Callable[[], Saved]:
    """What writes a checkpoint, here or in a thread.

    Args:
        promised: what it will be.
        data: of the run; for a thread, it is copied into the memory of the host.
        lines: rows and records that are not in the data.
        in_background: whether a thread will write.
        together: the ranks, where each writes the parts of tensors that it holds.
        check: raises if the directory is another run's; of ranks that write together.
    """
    folder, name, about = promised.path.parent, promised.name, promised.about
    if together is not None:
        return partial(write_together, together, folder, name, data, about, lines, check)
    if not in_background:
        return partial(checkpoint.write, folder, name, data, about, lines)
    structure, tensors = plain.encode(data)
    copies = {key: tensor.to("cpu", copy=True) for key, tensor in tensors.items()}
    return partial(checkpoint.write_encoded, folder, name, structure, copies, about, lines)
