"""Deterministic: torch's deterministic algorithms in a fit; afterwards what was set before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from statetrain.callback import Callback
from statetrain.validators import check_switches

if TYPE_CHECKING:
    from statetrain.context.context import Context


class Deterministic(Callback):
    """Lets torch use deterministic algorithms alone during a fit, in the whole process.

    On some devices the usual ones give other rounding errors in each run. Where an operation has no
    deterministic one, torch raises an error that names it; on CUDA it says how to set
    `CUBLAS_WORKSPACE_CONFIG` before the process starts. cuDNN does not try out which algorithm is
    fastest meanwhile. When the run ends, on every path, the settings are what they were before.

    Args:
        warn_only: whether such an operation is used with a warning instead.

    Raises:
        ConfigError: `warn_only` is neither True nor False.
    """

    reads = ()
    writes = ()

    def __init__(self, *, warn_only: bool = False) -> None:
        check_switches("Deterministic", warn_only=warn_only)
        self.warn_only = warn_only

    def on_enter_fit(self, ctx: Context) -> None:
        """Switches them on."""
        mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark

        def put_back() -> None:
            torch.set_deterministic_debug_mode(mode)
            torch.backends.cudnn.benchmark = benchmark

        ctx.defer(put_back)
        torch.use_deterministic_algorithms(True, warn_only=self.warn_only)
        torch.backends.cudnn.benchmark = False

    def on_resume(self, ctx: Context) -> None:
        """Switches them on."""
        self.on_enter_fit(ctx)

    def __repr__(self) -> str:
        return f"Deterministic(warn_only={self.warn_only})"
