"""The machine of a run: lifecycle and callbacks, with what is captured for them, checked."""

from __future__ import annotations

from typing import Any

from statetrain.callback import Callback, name_of
from statetrain.callbacks.optimizer_modes import with_modes
from statetrain.compute.accelerator import Accelerator
from statetrain.compute.capture import capturing, reads_of
from statetrain.context.context import Context
from statetrain.context.keys import root_of
from statetrain.contracts.checking import check_columns, monitors_of
from statetrain.contracts.listening import paths_in
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.machine.machine import Engine, Machine
from statetrain.training.setup.model import Trained
from statetrain.training.setup.objective import Objective
from statetrain.training.setup.ranks import Ranks


def make_machine(
    life: Lifecycle,
    callbacks: tuple[Callback, ...],
    trained: Trained,
    objective: Objective,
    ranks: Ranks,
    divided: bool,
    debug: bool,
    engine: Engine,
) -> Machine:
    """The machine, whose declarations have been checked against the run.

    Args:
        life: the table.
        callbacks: in order.
        trained, objective: from the stages before.
        ranks: the processes, each of which walks the table.
        divided: whether each of them has its part of the training data.
        debug: whether all are held to what they declare.
        engine: what walks the table.

    Raises:
        ContractError: a field or a monitor that is declared does not exist.
        ConfigError: something is read that a compiled model does not give.
    """
    callbacks = with_modes(callbacks, trained.optimizers.values())
    shared = ranks.share(life, objective, divided)
    machine = Machine(shared, callbacks, engine, debug=debug, agreement=ranks.agreement(shared))
    readers = (*objective.losses.values(), *objective.tallies.values())
    if trained.compiling is not None:
        _refuse_interms(machine, objective, readers)
    machine = capturing(machine, trained.model, *readers)
    machine.check_context(Context)
    _check_monitors(machine, objective)
    return machine


def _check_monitors(machine: Machine, objective: Objective) -> None:
    """Checks the monitors; those that cannot be known yet are looked at in the first row."""
    hint = ""
    if "valid" not in objective.tallies:
        hint = "; this run has no validation data, give valid="
    foreseen = objective.foreseen
    check_columns(
        machine, objective.columns, hint, others=foreseen.others, prefixes=foreseen.prefixes
    )
    monitors = dict.fromkeys(monitor for _, monitor in monitors_of(machine))
    for counted in objective.tallies.values():
        counted.monitored = tuple(filter(counted.foreseen.may_write, monitors))


def interms_read(machine: Machine, *more: Any) -> list[str]:
    """The outputs of modules that are read."""
    return sorted(path for path in reads_of(machine, *more) if root_of(path) == "interms")


def _refuse_interms(machine: Machine, objective: Objective, readers: tuple[Any, ...]) -> None:
    """What is compiled is one function: nothing comes out of the modules within it."""
    read = interms_read(machine, *readers)
    if not read:
        return
    parts = {
        **{
            f"callback {name_of(callback)!r}": paths_in(callback.reads)
            for callback in machine.callbacks
        },
        **objective.readers(),
    }
    who = next((who for who, paths in parts.items() if read[0] in paths), "a guard or an action")
    raise ConfigError(
        f"{read[0]!r} is read by {who}, and the model is compiled: what its modules return cannot"
        " be captured. Train without compile=, or let the model return what is needed and read"
        " that as 'pred.<name>'"
    )


def reads_loss(machine: Machine, accelerator: Accelerator) -> bool:
    """Whether the loss is read as a number in every batch.

    On the CPU always, unless the device finds out by itself what is not finite; elsewhere if
    something reads it.
    """
    late = bool(machine.lifecycle.by_role("report"))
    return (accelerator.device.type == "cpu" and not late) or "loss_value" in reads_of(machine)
