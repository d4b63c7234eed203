"""Workers of a loader while a run handles signals.

A signal sent to the whole group is answered by the run.

Ctrl-C in a terminal, and many a scheduler, send a signal to each process of a group. A worker that
dies of it takes the run down in the middle of a batch, before it can stop in order and be saved. So
workers ignore the signals that a run heeds; they end when the run ends them. What torch sends to
end a worker that hangs, SIGTERM from its parent, still does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from attrs import define

_IGNORED = [
    getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]
# Not every system lets signals wait, or says who sent one
_CAN_WAIT = hasattr(signal, "pthread_sigmask") and hasattr(signal, "sigwaitinfo")


@define
class Sheltered:
    """What a worker calls first: signals to the group are ignored, then the loader's own function.

    Args:
        function: the loader's `worker_init_fn`.
    """

    function: Callable[[int], Any] | None

    def __call__(self, number: int) -> None:
        for one in _IGNORED:
            signal.signal(one, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_asked, args=(os.getppid(),), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
        if self.function is not None:
            self.function(number)


def _end_when_asked(parent: int) -> None:
    """Ends the process if its parent sends SIGTERM; ignores that of others."""
    while True:
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == parent:
            os._exit(0)


def iterate(loader: Any) -> Iterator[Any]:
    """An iterator over a loader, whose workers leave signals to the process that has made them.

    While workers start, signals wait: they would kill a worker that cannot ignore them as yet. They
    are delivered to this process when the workers have been started.
    """
    if not _starts_workers(loader):
        return iter(loader)
    own, loader.worker_init_fn = loader.worker_init_fn, Sheltered(loader.worker_init_fn)
    _start_helpers(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_IGNORED, signal.SIGTERM])
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        loader.worker_init_fn = own


def _starts_workers(loader: Any) -> bool:
    torch_data = sys.modules.get("torch.utils.data")  # a lifecycle is walked without torch
    if torch_data is None or not isinstance(loader, torch_data.DataLoader):
        return False
    if not _CAN_WAIT or not loader.num_workers:
        return False
    persist = loader.persistent_workers and getattr(loader, "_iterator", None) is not None
    return not persist and threading.current_thread() is threading.main_thread()


def _start_helpers(loader: Any) -> None:
    """Starts the process that tracks resources: it would let signals through in the middle."""
    context = loader.multiprocessing_context
    method = None
    if context is not None:
        method = context.get_start_method()
    if method in ("spawn", "forkserver"):
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
