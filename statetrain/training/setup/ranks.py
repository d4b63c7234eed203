"""The processes of a run: what is shared between them, which is nothing in one process."""

from __future__ import annotations

from typing import Any

from statetrain.callback import Callback
from statetrain.compute.accelerator import Accelerator
from statetrain.context.context import Context
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.agreeing import Agreement
from statetrain.machine.machine import Machine
from statetrain.training.setup.data import Data
from statetrain.training.setup.objective import Objective


class Ranks:
    """The only process of a run: each method gives back what it is given.

    `SeveralRanks` says what each does for several.
    """

    def seed(self, seed: int | None, saved: Any) -> int | None:
        """The seed of the run, of what `fit` was given and the snapshot that it resumes from."""
        return seed

    def listening(self, callbacks: tuple[Callback, ...]) -> tuple[Callback, ...]:
        """The callbacks that listen on this rank."""
        return callbacks

    def divide(self, data: Data) -> Data:
        """The data, of whose batches this rank draws its part."""
        return data

    def share(self, life: Lifecycle, objective: Objective, divided: bool) -> Lifecycle:
        """The table that this rank walks, of that of one process."""
        return life

    def agreement(self, life: Lifecycle) -> Agreement | None:
        """The meetings of a table that is shared; None in one process."""
        return None

    def begin(self, ctx: Context, machine: Machine) -> Context:
        """The context, which has been compared with those of the other ranks."""
        return ctx


def ranks_of(accelerator: Accelerator, options: Any, given: Lifecycle | None) -> Ranks:
    """The processes of a run.

    Args:
        accelerator: of the run; a `DDP` or `FSDP` for several processes.
        options: of the lifecycle.
        given: the user's own lifecycle; None for the standard one.
    """
    if accelerator.sharing is None:
        return Ranks()
    # Of no use to one process, which need not load it
    from statetrain.training.setup.several import SeveralRanks

    # Gradients carry what ranks tell each other, but not where custom code computes them
    own = given is not None and not given.by_role("backward")
    accelerator.sharing.calls_backward = options.get("compute") is None and not own
    return SeveralRanks(accelerator.sharing)


def machine_aside(
    ctx: Context, life: Lifecycle, callbacks: tuple[Callback, ...], debug: bool
) -> Machine:
    """The machine that evaluates or predicts, on as many ranks as the accelerator has.

    Args:
        ctx: its context.
        life, callbacks, debug: of the machine.
    """
    if ctx.accelerator.sharing is None:
        return Machine(life, callbacks, debug=debug)
    from statetrain.training.setup.several import machine_on_ranks

    return machine_on_ranks(ctx, ctx.accelerator.sharing.group, life, callbacks, debug)
