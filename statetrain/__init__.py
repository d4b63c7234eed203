"""statetrain: train PyTorch models with an explicit state machine that can be seen, checked, tested and trusted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statetrain import schedules as schedules
    from statetrain import testing as testing
    from statetrain.callback import Callback as Callback
    from statetrain.callbacks.checkpoint import Checkpoint as Checkpoint
    from statetrain.callbacks.collect_garbage import CollectGarbage as CollectGarbage
    from statetrain.callbacks.conditional import only_if as only_if
    from statetrain.callbacks.conditional import throttle as throttle
    from statetrain.callbacks.csv_logger import CSVLogger as CSVLogger
    from statetrain.callbacks.ema import EMA as EMA
    from statetrain.callbacks.gradient_clip import GradientClip as GradientClip
    from statetrain.callbacks.json_lines import JSONLines as JSONLines
    from statetrain.callbacks.keep_best import KeepBest as KeepBest
    from statetrain.callbacks.log import Log as Log
    from statetrain.callbacks.logger import Backend as Backend
    from statetrain.callbacks.logger import Logger as Logger
    from statetrain.callbacks.lr_scheduler import LRScheduler as LRScheduler
    from statetrain.callbacks.mixup import Mixed as Mixed
    from statetrain.callbacks.mixup import Mixup as Mixup
    from statetrain.callbacks.mixup import mixup_loss as mixup_loss
    from statetrain.callbacks.mlflow import MLflow as MLflow
    from statetrain.callbacks.on import on as on
    from statetrain.callbacks.profile import Profile as Profile
    from statetrain.callbacks.progress import Progress as Progress
    from statetrain.callbacks.sanity_check import SanityCheck as SanityCheck
    from statetrain.callbacks.save_weights import SaveWeights as SaveWeights
    from statetrain.callbacks.schedule import Schedule as Schedule
    from statetrain.callbacks.tensorboard import TensorBoard as TensorBoard
    from statetrain.callbacks.watch import Watch as Watch
    from statetrain.callbacks.weights_and_biases import WandB as WandB
    from statetrain.compute.accelerator import Accelerator as Accelerator
    from statetrain.context import keys as keys
    from statetrain.context.context import Context as Context
    from statetrain.context.history import History as History
    from statetrain.context.position import Position as Position
    from statetrain.contracts.declaring import Access as Access
    from statetrain.contracts.declaring import access as access
    from statetrain.errors import CallbackError as CallbackError
    from statetrain.errors import CheckpointError as CheckpointError
    from statetrain.errors import ConfigError as ConfigError
    from statetrain.errors import ContractError as ContractError
    from statetrain.errors import DataError as DataError
    from statetrain.errors import GuardError as GuardError
    from statetrain.errors import LifecycleError as LifecycleError
    from statetrain.errors import LossError as LossError
    from statetrain.errors import LossSpike as LossSpike
    from statetrain.errors import MachineError as MachineError
    from statetrain.errors import NonFiniteLoss as NonFiniteLoss
    from statetrain.errors import StatetrainError as StatetrainError
    from statetrain.errors import TraceError as TraceError
    from statetrain.events import Event as Event
    from statetrain.events import SkipBatch as SkipBatch
    from statetrain.events import SkipEpoch as SkipEpoch
    from statetrain.events import StopFit as StopFit
    from statetrain.friends.estimators import Classifier as Classifier
    from statetrain.friends.estimators import Regressor as Regressor
    from statetrain.friends.pruning import Pruning as Pruning
    from statetrain.guards.base import Guard as Guard
    from statetrain.guards.base import guard as guard
    from statetrain.guards.batch import NonFinite as NonFinite
    from statetrain.guards.batch import Spike as Spike
    from statetrain.guards.clock import Deadline as Deadline
    from statetrain.guards.clock import TimeLimit as TimeLimit
    from statetrain.guards.counters import Every as Every
    from statetrain.guards.counters import MaxSteps as MaxSteps
    from statetrain.guards.counters import MinEpochs as MinEpochs
    from statetrain.guards.counters import Once as Once
    from statetrain.guards.history import EarlyStopping as EarlyStopping
    from statetrain.guards.history import InvalidValue as InvalidValue
    from statetrain.guards.history import Never as Never
    from statetrain.guards.history import NumberLimit as NumberLimit
    from statetrain.guards.history import Threshold as Threshold
    from statetrain.guards.history import Warmup as Warmup
    from statetrain.guards.prechelt import GL as GL
    from statetrain.guards.prechelt import PQ as PQ
    from statetrain.guards.prechelt import UP as UP
    from statetrain.guards.requests import stop_requested as stop_requested
    from statetrain.lifecycle.difference import diff as diff
    from statetrain.lifecycle.lifecycle import Lifecycle as Lifecycle
    from statetrain.lifecycle.state import State as State
    from statetrain.lifecycle.transition import Transition as Transition
    from statetrain.logs.loggables import Audio as Audio
    from statetrain.logs.loggables import Figure as Figure
    from statetrain.logs.loggables import File as File
    from statetrain.logs.loggables import Histogram as Histogram
    from statetrain.logs.loggables import Image as Image
    from statetrain.logs.loggables import Settings as Settings
    from statetrain.logs.loggables import Text as Text
    from statetrain.logs.loggables import Value as Value
    from statetrain.logs.sources import Histograms as Histograms
    from statetrain.logs.sources import HyperParameters as HyperParameters
    from statetrain.logs.sources import LearningRate as LearningRate
    from statetrain.logs.sources import Records as Records
    from statetrain.logs.sources import Summaries as Summaries
    from statetrain.losses.losses import Loss as Loss
    from statetrain.losses.losses import Losses as Losses
    from statetrain.losses.losses import LossState as LossState
    from statetrain.losses.metrics import Metric as Metric
    from statetrain.machine.interop import to_machine as to_machine
    from statetrain.machine.machine import Machine as Machine
    from statetrain.machine.steps import Breakpoint as Breakpoint
    from statetrain.machine.steps import Steps as Steps
    from statetrain.outcome import Completed as Completed
    from statetrain.outcome import Failed as Failed
    from statetrain.outcome import Interrupted as Interrupted
    from statetrain.outcome import Outcome as Outcome
    from statetrain.outcome import Stopped as Stopped
    from statetrain.ranks.ddp import DDP as DDP
    from statetrain.standard import actions as actions
    from statetrain.standard.evaluations import Evaluation as Evaluation
    from statetrain.standard.looping import evaluation as evaluation
    from statetrain.standard.looping import prediction as prediction
    from statetrain.standard.precision import MixedPrecision as MixedPrecision
    from statetrain.standard.precision import mixed_precision as mixed_precision
    from statetrain.standard.rollback import RollBack as RollBack
    from statetrain.standard.several import several as several
    from statetrain.standard.supervised import supervised as supervised
    from statetrain.trace import Trace as Trace
    from statetrain.trace import Tracing as Tracing
    from statetrain.training.evaluating import context_for as context_for
    from statetrain.training.evaluating import evaluate as evaluate
    from statetrain.training.fitting import fit as fit
    from statetrain.training.lr_finder import LRFinder as LRFinder
    from statetrain.training.lr_finder import lr_find as lr_find
    from statetrain.training.predicting import predict as predict
    from statetrain.training.predicting import predict_batches as predict_batches
    from statetrain.training.run import Run as Run
    from statetrain.training.saving import SavedRun as SavedRun
    from statetrain.training.saving import load as load
    from statetrain.training.saving import load_checkpoint as load_checkpoint
    from statetrain.training.saving import load_weights as load_weights
    from statetrain.training.saving import save as save
    from statetrain.training.saving import save_weights as save_weights

__version__ = "0.2.0"

# Where each public name lives. A name is loaded when it is first used, so that what needs no torch
# loads none.
_HOMES = {
    "compute.accelerator": ("Accelerator",),
    "ranks.ddp": ("DDP",),
    "standard.several": ("several",),
    "callback": ("Callback",),
    "callbacks.checkpoint": ("Checkpoint",),
    "callbacks.collect_garbage": ("CollectGarbage",),
    "callbacks.csv_logger": ("CSVLogger",),
    "callbacks.ema": ("EMA",),
    "callbacks.gradient_clip": ("GradientClip",),
    "callbacks.json_lines": ("JSONLines",),
    "callbacks.keep_best": ("KeepBest",),
    "callbacks.log": ("Log",),
    "callbacks.logger": ("Backend", "Logger"),
    "callbacks.lr_scheduler": ("LRScheduler",),
    "callbacks.mixup": ("Mixed", "Mixup", "mixup_loss"),
    "callbacks.mlflow": ("MLflow",),
    "callbacks.on": ("on",),
    "callbacks.profile": ("Profile",),
    "callbacks.progress": ("Progress",),
    "callbacks.sanity_check": ("SanityCheck",),
    "callbacks.save_weights": ("SaveWeights",),
    "callbacks.schedule": ("Schedule",),
    "callbacks.tensorboard": ("TensorBoard",),
    "callbacks.weights_and_biases": ("WandB",),
    "callbacks.watch": ("Watch",),
    "callbacks.conditional": ("only_if", "throttle"),
    "context.context": ("Context",),
    "contracts.declaring": ("Access", "access"),
    "guards.batch": ("NonFinite", "Spike"),
    "guards.clock": ("Deadline", "TimeLimit"),
    "guards.counters": ("Every", "MaxSteps", "MinEpochs", "Once"),
    "guards.history": (
        "EarlyStopping",
        "InvalidValue",
        "Never",
        "NumberLimit",
        "Threshold",
        "Warmup",
    ),
    "guards.prechelt": ("GL", "PQ", "UP"),
    "guards.requests": ("stop_requested",),
    "standard.evaluations": ("Evaluation",),
    "friends.estimators": ("Classifier", "Regressor"),
    "friends.pruning": ("Pruning",),
    "guards.base": ("Guard", "guard"),
    "context.history": ("History",),
    "machine.interop": ("to_machine",),
    "lifecycle.lifecycle": ("Lifecycle",),
    "lifecycle.state": ("State",),
    "lifecycle.transition": ("Transition",),
    "standard.looping": ("evaluation", "prediction"),
    "standard.supervised": ("supervised",),
    "logs.loggables": (
        "Audio",
        "Figure",
        "File",
        "Histogram",
        "Image",
        "Settings",
        "Text",
        "Value",
    ),
    "losses.losses": ("Loss", "LossState", "Losses"),
    "training.lr_finder": ("LRFinder", "lr_find"),
    "machine.machine": ("Machine",),
    "losses.metrics": ("Metric",),
    "errors": (
        *(
            "CallbackError",
            "CheckpointError",
            "ConfigError",
            "ContractError",
            "DataError",
            "GuardError",
        ),
        *(
            "LifecycleError",
            "LossError",
            "LossSpike",
            "MachineError",
            "NonFiniteLoss",
            "StatetrainError",
            "TraceError",
        ),
    ),
    "events": ("Event", "SkipBatch", "SkipEpoch", "StopFit"),
    "outcome": ("Completed", "Failed", "Interrupted", "Outcome", "Stopped"),
    "context.position": ("Position",),
    "standard.precision": ("MixedPrecision", "mixed_precision"),
    "lifecycle.difference": ("diff",),
    "standard.rollback": ("RollBack",),
    "training.run": ("Run",),
    "training.saving": (
        "SavedRun",
        "load",
        "load_checkpoint",
        "load_weights",
        "save",
        "save_weights",
    ),
    "logs.sources": ("Histograms", "HyperParameters", "LearningRate", "Records", "Summaries"),
    "machine.steps": ("Breakpoint", "Steps"),
    "trace": ("Trace", "Tracing"),
    "training.evaluating": ("context_for", "evaluate"),
    "training.predicting": ("predict", "predict_batches"),
    "training.fitting": ("fit",),
}
# Modules of functions that are called by two names: `schedules.cosine`.
_MODULES = {
    "actions": "standard.actions",
    "keys": "context.keys",
    "schedules": "schedules",
    "testing": "testing",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])  # computed from the one list above


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"statetrain.{_MODULES[name]}")
    if name not in _HOME_OF:
        from statetrain.naming import did_you_mean

        near = did_you_mean(name, (*_HOME_OF, *_MODULES))
        raise AttributeError(
            "module 'statetrain' has no attribute"
            f" {name!r}{near if near.startswith('; did you mean') else ''}"
        )
    value = getattr(importlib.import_module(f"statetrain.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
