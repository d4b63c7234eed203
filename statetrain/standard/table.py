"""The standard table: training alone, without any option.

Each option is an edit of it; see `statetrain.standard.edits`.
"""

from __future__ import annotations

from statetrain.events import SkipBatch, SkipEpoch, StopFit
from statetrain.guards.batch import batch_drawn
from statetrain.guards.counters import more_epochs
from statetrain.guards.requests import stop_requested
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.lifecycle.state import State
from statetrain.lifecycle.transition import Transition
from statetrain.standard import actions as do
from statetrain.standard.modes import Quiet, Training

STANDARD = frozenset(
    [
        "fit",
        "next_epoch",
        "epoch",
        "train",
        "next_batch",
        "draw",
        "batch",
        "pred",
        "loss",
        "backward",
        "grad_norm",
        "compute",
        "counted",
        "hold",
        "keep",
        "report",
        "settle",
        "unscale",
        "step",
        "update",
        "valid",
        "next_valid_batch",
        "valid_draw",
        "valid_batch",
        "valid_pred",
        "valid_loss",
        "valid_compute",
        "collect",
        "record",
        "ending",
        "end_record",
        "end",
        "predict",
        "next_predict_batch",
        "predict_draw",
        "predict_batch",
        "predict_pred",
    ]
)
"""Names that hooks may mention though an option that is off leaves the state out."""

stop_now = stop_requested.named("stop now")

TABLE = Lifecycle(
    "supervised",
    states=[
        State("fit", do.begin, mode=Quiet()),
        State("next_epoch", within="fit", anchor=True),
        State("epoch", do.open_epoch, "fit", close=do.close_epoch, reopen=do.reopen_epoch),
        State("train", do.open_train, "epoch", mode=Training()),
        State("next_batch", within="train", anchor=True),
        State("draw", do.draw, "train"),
        State("batch", do.open_batch, "train", close=do.close_batch),
        State("pred", do.pred, "batch"),
        State("loss", do.loss, "batch"),
        State("backward", do.backward, "batch"),
        State("step", do.step, "batch"),
        State("record", do.record, "epoch"),
        State("end", final=True),
    ],
    transitions=[
        Transition("fit", "next_epoch"),
        Transition("next_epoch", "end", stop_now, do.say_why),
        Transition("next_epoch", "epoch", more_epochs, do.count_epoch),
        Transition("next_epoch", "end"),
        Transition("epoch", "train"),
        Transition("train", "next_batch"),
        Transition("next_batch", "record", stop_now),
        Transition("next_batch", "draw"),
        Transition("draw", "batch", batch_drawn, do.count_batch),
        Transition("draw", "record"),
        Transition("batch", "pred"),
        Transition("pred", "loss"),
        Transition("loss", "backward", effect=do.count_loss),
        Transition("backward", "step"),
        Transition("step", "next_batch"),
        Transition("record", "next_epoch"),
        Transition("draw", "next_batch", effect=do.discard_window, event=SkipBatch),
        Transition("batch", "next_batch", effect=do.discard_window, event=SkipBatch),
        Transition("train", "record", effect=do.end_epoch_early, event=SkipEpoch),
        Transition("epoch", "next_epoch", effect=do.end_epoch_early, event=SkipEpoch),
        Transition("fit", "end", effect=do.say_why, event=StopFit),
        Transition("fit", "end", effect=do.say_why, event=KeyboardInterrupt),
    ],
    also=STANDARD,
)
