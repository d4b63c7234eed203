"""statetrain: train PyTorch models with an explicit state machine that can be seen, checked, tested and trusted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statetrain import actions as actions
    from statetrain import keys as keys
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
    from statetrain.context import Context as Context
    from statetrain.contracts.declaring import Access as Access
    from statetrain.contracts.declaring import access as access
    from statetrain.criteria import Deadline as Deadline
    from statetrain.criteria import Every as Every
    from statetrain.criteria import MaxSteps as MaxSteps
    from statetrain.criteria import MinEpochs as MinEpochs
    from statetrain.criteria import NonFinite as NonFinite
    from statetrain.criteria import Once as Once
    from statetrain.criteria import Spike as Spike
    from statetrain.criteria import TimeLimit as TimeLimit
    from statetrain.criteria import stop_requested as stop_requested
    from statetrain.engine.position import Position as Position
    from statetrain.engine.steps import Breakpoint as Breakpoint
    from statetrain.engine.steps import Steps as Steps
    from statetrain.evaluations import Evaluation as Evaluation
    from statetrain.guards import Guard as Guard
    from statetrain.guards import guard as guard
    from statetrain.history import History as History
    from statetrain.interop import to_machine as to_machine
    from statetrain.lifecycle import Lifecycle as Lifecycle
    from statetrain.lifecycle import State as State
    from statetrain.lifecycle import Transition as Transition
    from statetrain.lifecycles import evaluation as evaluation
    from statetrain.lifecycles import prediction as prediction
    from statetrain.lifecycles import supervised as supervised
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
    from statetrain.losses import Loss as Loss
    from statetrain.losses import Losses as Losses
    from statetrain.losses import LossState as LossState
    from statetrain.lr_finder import LRFinder as LRFinder
    from statetrain.lr_finder import lr_find as lr_find
    from statetrain.machine import Machine as Machine
    from statetrain.metrics import Metric as Metric
    from statetrain.outcome import CallbackError as CallbackError
    from statetrain.outcome import CheckpointError as CheckpointError
    from statetrain.outcome import Completed as Completed
    from statetrain.outcome import ConfigError as ConfigError
    from statetrain.outcome import ContractError as ContractError
    from statetrain.outcome import DataError as DataError
    from statetrain.outcome import Event as Event
    from statetrain.outcome import Failed as Failed
    from statetrain.outcome import GuardError as GuardError
    from statetrain.outcome import Interrupted as Interrupted
    from statetrain.outcome import LifecycleError as LifecycleError
    from statetrain.outcome import LossError as LossError
    from statetrain.outcome import LossSpike as LossSpike
    from statetrain.outcome import MachineError as MachineError
    from statetrain.outcome import NonFiniteLoss as NonFiniteLoss
    from statetrain.outcome import Outcome as Outcome
    from statetrain.outcome import SkipBatch as SkipBatch
    from statetrain.outcome import SkipEpoch as SkipEpoch
    from statetrain.outcome import StopFit as StopFit
    from statetrain.outcome import Stopped as Stopped
    from statetrain.outcome import TraceError as TraceError
    from statetrain.precision import MixedPrecision as MixedPrecision
    from statetrain.precision import mixed_precision as mixed_precision
    from statetrain.rollback import RollBack as RollBack
    from statetrain.run import Run as Run
    from statetrain.saving import SavedRun as SavedRun
    from statetrain.saving import load as load
    from statetrain.saving import load_checkpoint as load_checkpoint
    from statetrain.saving import load_weights as load_weights
    from statetrain.saving import save as save
    from statetrain.saving import save_weights as save_weights
    from statetrain.stopping import GL as GL
    from statetrain.stopping import PQ as PQ
    from statetrain.stopping import UP as UP
    from statetrain.stopping import EarlyStopping as EarlyStopping
    from statetrain.stopping import InvalidValue as InvalidValue
    from statetrain.stopping import Never as Never
    from statetrain.stopping import NumberLimit as NumberLimit
    from statetrain.stopping import Threshold as Threshold
    from statetrain.stopping import Warmup as Warmup
    from statetrain.table.registry import diff as diff
    from statetrain.trace import Trace as Trace
    from statetrain.trace import Tracing as Tracing
    from statetrain.training.evaluating import context_for as context_for
    from statetrain.training.evaluating import evaluate as evaluate
    from statetrain.training.evaluating import predict as predict
    from statetrain.training.fitting import fit as fit

__version__ = "0.1.0"

# Where each public name lives. A name is loaded when it is first used, so that what needs no torch loads none.
_HOMES = {
    "compute.accelerator": ("Accelerator",),
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
    "context": ("Context",),
    "contracts.declaring": ("Access", "access"),
    "criteria": ("Deadline", "Every", "MaxSteps", "MinEpochs", "NonFinite", "Once", "Spike", "TimeLimit", "stop_requested"),
    "evaluations": ("Evaluation",),
    "guards": ("Guard", "guard"),
    "history": ("History",),
    "interop": ("to_machine",),
    "lifecycle": ("Lifecycle", "State", "Transition"),
    "lifecycles": ("evaluation", "prediction", "supervised"),
    "logs.loggables": ("Audio", "Figure", "File", "Histogram", "Image", "Settings", "Text", "Value"),
    "losses": ("Loss", "LossState", "Losses"),
    "lr_finder": ("LRFinder", "lr_find"),
    "machine": ("Machine",),
    "metrics": ("Metric",),
    "outcome": (
        *("CallbackError", "CheckpointError", "Completed", "ConfigError", "ContractError", "DataError", "Event", "Failed", "GuardError", "Interrupted"),
        *("LifecycleError", "LossError", "LossSpike", "MachineError", "NonFiniteLoss", "Outcome", "SkipBatch", "SkipEpoch", "StopFit"),
        *("Stopped", "TraceError"),
    ),
    "engine.position": ("Position",),
    "precision": ("MixedPrecision", "mixed_precision"),
    "table.registry": ("diff",),
    "rollback": ("RollBack",),
    "run": ("Run",),
    "saving": ("SavedRun", "load", "load_checkpoint", "load_weights", "save", "save_weights"),
    "logs.sources": ("Histograms", "HyperParameters", "LearningRate", "Records", "Summaries"),
    "engine.steps": ("Breakpoint", "Steps"),
    "stopping": ("GL", "PQ", "UP", "EarlyStopping", "InvalidValue", "Never", "NumberLimit", "Threshold", "Warmup"),
    "trace": ("Trace", "Tracing"),
    "training.evaluating": ("context_for", "evaluate", "predict"),
    "training.fitting": ("fit",),
}
_MODULES = ("actions", "keys", "schedules", "testing")  # of functions that are called by two names: `schedules.cosine`
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])  # computed from the one list above


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"statetrain.{name}")
    if name not in _HOME_OF:
        from statetrain.naming import did_you_mean

        near = did_you_mean(name, (*_HOME_OF, *_MODULES))
        raise AttributeError(f"module 'statetrain' has no attribute {name!r}{near if near.startswith('; did you mean') else ''}")
    value = getattr(importlib.import_module(f"statetrain.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
