"""Processes that are forked from one that has torch loaded and has never trained, so that each takes a tenth of a second."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

# An optimizer's first step would import it, in each process anew
import torch._dynamo  # noqa: F401

from statetrain import training  # noqa: F401  # likewise
from statetrain.callbacks import checkpoint, lr_scheduler  # noqa: F401  # likewise
from statetrain.checkpoints import (
    lock,  # noqa: F401  # likewise
    snapshot,  # noqa: F401  # likewise
)
from suites.case import scratch_place


def forked(work: Callable[[], str], kill_after: float | None = None) -> tuple[int, str]:
    """Does something in a process of its own.

    Args:
        work: what to do there.
        kill_after: seconds after which the process is killed, if it has not ended by then.

    Returns:
        Its exit code, or minus the signal that killed it; and what `work` returned, or what was
        raised.
    """
    with tempfile.NamedTemporaryFile("r", dir=scratch_place()) as said:
        # A file and no pipe: the workers of a process that was killed would hold it open.
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            # Workers whose process was killed complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            # That another process ended without a word is the point
            logging.getLogger("statetrain").setLevel(logging.ERROR)
            try:
                Path(said.name).write_text(work())
                os._exit(0)
            except BaseException:
                Path(said.name).write_text(traceback.format_exc())
                os._exit(1)
        if kill_after is not None:
            time.sleep(kill_after)
            # It waits to be asked for, so its number is still its own
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Its workers: most notice by themselves after some seconds, one that was just being
            # forked never
            os.killpg(child, signal.SIGKILL)
        return code, said.read()


def die() -> None:
    """Ends this process as the system does when memory is short: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
