"""Finding out late: the device leaves out the steps that are not finite, and tells the host.

The step is drawn as masked, and two states tell the host: `report`, every 50 steps, and `settle`,
before each `record`. The policy acts on the arrow out of them.
"""

from __future__ import annotations

import attrs

from statetrain.contracts.composing import then
from statetrain.events import SkipBatch, SkipEpoch, StopFit
from statetrain.guards.batch import Masked
from statetrain.guards.counters import Every
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import FAILED, State, StateWork
from statetrain.lifecycle.transition import Transition
from statetrain.standard import actions as do

_POLICIES: dict[str, tuple[str | None, StateWork]] = {
    "raise": (FAILED, do.raise_masked),
    "skip": (None, do.tell_masked),
    "stop": (None, do.stop_masked),
}


def finding_out_late(life: Lifecycle, policy: str) -> Lifecycle:
    """A lifecycle whose steps are masked on the device, and whose report is an arrow.

    Args:
        life: with the states of the standard table.
        policy: "raise", "skip" or "stop".
    """
    life = _masked(life)
    leads, effect = _POLICIES[policy]
    settle = State("settle", do.settle, life.state("record").within)
    arrows = [
        attrs.evolve(arrow, dest="settle") if arrow.dest == "record" else arrow
        for arrow in life.transitions
    ]
    told = Transition("settle", leads or "record", Masked(), effect)
    life = attrs.evolve(
        life,
        states=[*life.states, settle],
        transitions=[*arrows, told, Transition("settle", "record")],
    )
    return life.add(
        State("report", do.report, life.state("next_batch").within),
        Transition("next_batch", "report", Every(50, "steps").named("report due")),
        Transition("report", leads or "next_batch", Masked(), effect),
        Transition("report", "draw"),
    )


def counting_arrow(life: Lifecycle) -> Transition:
    """The arrow that counts the loss of a training batch: the unguarded one out of its state."""
    return life.arrows(next(name for name in ("compute", "loss") if name in life.names))[-1]


def _masked(life: Lifecycle) -> Lifecycle:
    life = life.alter(counting_arrow(life), effect=do.count_finite_loss)
    for arrow in life.transitions:
        if arrow.event in (SkipBatch, SkipEpoch, StopFit) and life.role(arrow.source) in _TRAINING:
            life = life.alter(arrow, effect=then(arrow.effect, do.drop_mask))
    return life


_TRAINING = ("epoch", "train", "draw", "batch")
