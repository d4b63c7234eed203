"""Going through data without training: the part of a table that evaluates or predicts.

`evaluation()` and `prediction()` are such a part alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from statetrain.events import SkipBatch, SkipEpoch, StopFit
from statetrain.guards.batch import another_optimizer, batch_drawn
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.standard import actions as do
from statetrain.standard.computing import Predicting, computing_in
from statetrain.standard.modes import Evaluating
from statetrain.standard.table import STANDARD, stop_now

LoopPart = State | Transition


def loop(name: str, within: str | None, after: str, stop: Transition) -> list[LoopPart]:
    """States and arrows of going through data: the scope, its loop head, drawing, the model.

    Args:
        name: of the scope: "valid", "predict", or that of an evaluation.
        within: the scope around it.
        after: where the last batch leads.
        stop: the arrow that ends it early.
    """
    head, draw, batch = f"next_{name}_batch", f"{name}_draw", f"{name}_batch"
    role = _role(name)
    return [
        _scope(name, within),
        State(head, within=name, anchor=True, role=f"next_{role}_batch"),
        State(draw, do.valid_draw, name, role=f"{role}_draw"),
        State(batch, do.read_batch, name, close=do.close_batch, role=f"{role}_batch"),
        State(f"{name}_pred", do.pred, batch, role=f"{role}_pred"),
        Transition(name, head),
        stop,
        Transition(head, draw),
        Transition(draw, batch, batch_drawn, do.count_valid_batch),
        Transition(draw, after),
        Transition(batch, f"{name}_pred"),
        Transition(draw, head, event=SkipBatch),
        Transition(batch, head, event=SkipBatch),
    ]


def _role(name: str) -> str:
    """The role of a scope: every evaluation is a validation on other data."""
    return "predict" if name == "predict" else "valid"


def _scope(name: str, within: str | None) -> State:
    data = "valid" if name == "predict" else name
    return State(
        name,
        do.OpenData(data),
        within,
        mode=Evaluating(data),
        close=do.close_valid,
        reopen=do.ReopenData(data),
        role=_role(name),
    )


def evaluating(
    name: str, within: str | None, stop: Transition, after: str = "record"
) -> list[LoopPart]:
    """States and arrows of a validation, or of an evaluation: `loop` with the loss.

    Args:
        name, within, stop: as in `loop`.
        after: where the last batch leads, and SkipEpoch.
    """
    return [
        *loop(name, within, after, stop),
        State(f"{name}_loss", do.valid_loss, f"{name}_batch", role="valid_loss"),
        Transition(f"{name}_pred", f"{name}_loss"),
        Transition(f"{name}_loss", f"next_{name}_batch"),
        Transition(name, after, effect=do.DropData(name), event=SkipEpoch),
    ]


def evaluated(life: Lifecycle) -> list[str]:
    """The scopes that evaluate, in order."""
    return [state.name for state in life.states if isinstance(state.mode, Evaluating)]


def alternating_in(life: Lifecycle, name: str) -> Lifecycle:
    """A lifecycle whose evaluation computes the loss of each optimizer."""
    head, tail = f"{name}_pred", f"{name}_loss"
    if f"{name}_compute" in life.names:
        head = tail = f"{name}_compute"
    life = life.alter(life.between(f"{name}_batch", head)[0], effect=do.select_first)
    return life.add(Transition(tail, head, another_optimizer, do.select_next))


def evaluation(*, optimizers: int = 1, compute: Callable[[Any], Any] | None = None) -> Lifecycle:
    """The lifecycle of evaluating a model: validation alone, with one row at its end.

    Args:
        optimizers: how many losses there are to evaluate, one for each optimizer.
        compute: a function of the context in place of `valid_pred` and `valid_loss`; it returns the
            loss.
    """
    life = _lifecycle(
        "evaluation",
        [
            *evaluating("valid", None, _stop("valid")),
            State("record", do.record),
            State("end", final=True),
            Transition("record", "end"),
            *_events("valid"),
        ],
    )
    if compute is not None:
        life = computing_in(life, "valid", compute)
    if optimizers > 1:
        life = alternating_in(life, "valid")
    return life


def prediction(*, compute: Callable[[Any], Any] | None = None) -> Lifecycle:
    """The lifecycle of predicting: validation's loop, with the model alone.

    Args:
        compute: a function of the context in place of calling the model on the input; it returns
            the prediction.
    """
    life = _lifecycle(
        "prediction",
        [
            *loop("predict", None, "end", _stop("predict")),
            State("collect", do.keep_pred, "predict_batch"),
            State("end", final=True),
            Transition("predict_pred", "collect"),
            Transition("collect", "next_predict_batch"),
            *_events("predict"),
        ],
    )
    if compute is not None:
        life = life.replace("predict_pred", action=Predicting(compute))
    return life


def _lifecycle(name: str, parts: list[LoopPart]) -> Lifecycle:
    return Lifecycle(
        name,
        [part for part in parts if isinstance(part, State)],
        [part for part in parts if isinstance(part, Transition)],
        also=STANDARD,
    )


def _stop(name: str) -> Transition:
    return Transition(f"next_{name}_batch", "end", stop_now, do.say_why)


def _events(scope: str) -> list[Transition]:
    return [
        Transition(scope, "end", effect=do.say_why, event=StopFit),
        Transition(scope, "end", effect=do.say_why, event=KeyboardInterrupt),
    ]
