"""What a user gives, made into what a run consists of; what cannot be, is refused with what to do."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from statetrain.callback import Callback
from statetrain.compute.accelerator import Accelerator
from statetrain.compute.capture import reads_of
from statetrain.compute.huggingface import adapt
from statetrain.compute.keyed import keyed
from statetrain.compute.seeding import aside, key
from statetrain.context.context import Context
from statetrain.context.keys import root_of
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.losses.losses import Loss as KeyedLoss
from statetrain.losses.losses import Losses, bound, modules_of
from statetrain.losses.metrics import Tally
from statetrain.machine.machine import Machine
from statetrain.naming import did_you_mean
from statetrain.standard import actions
from statetrain.standard.evaluations import Evaluation
from statetrain.standard.fusing import Fused

log = logging.getLogger("statetrain")

Loss = Callable[..., Any]
Optimizer = torch.optim.Optimizer


def refuse_several_processes() -> None:
    """Raises a `ConfigError` where torch runs several processes: they would train apart."""
    world = int(os.environ.get("WORLD_SIZE", "1") or 1)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
    if world > 1:
        raise ConfigError(
            f"statetrain runs in one process so far, got {world} (torch.distributed or WORLD_SIZE);"
            " each would train a model of its own. Start one process, or wrap the loop yourself"
        )


def accelerator_for(given: Any, device: str | torch.device) -> Accelerator:
    """What was given for the accelerator behind our interface; that of a device, if nothing was."""
    if given is None:
        return Accelerator(device)
    if device != "auto":
        raise ConfigError(
            f"device={device!r} would not be used: the accelerator has its own, {given.device}"
        )
    return adapt(given)


def update_of(lifecycle: Lifecycle) -> Fused | None:
    """The action of the fused state; None if there is none."""
    return next(
        (state.action for state in lifecycle.states if isinstance(state.action, Fused)), None
    )


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether a module is one that `torch.compile` made."""
    return hasattr(module, "_orig_mod")


def interms_read(machine: Machine, *more: Any) -> list[str]:
    """The outputs of modules that somebody reads."""
    return sorted(path for path in reads_of(machine, *more) if root_of(path) == "interms")


def by_key(data: Any, seed: int | None, name: str) -> Any:
    """Data that draws by key, if there is a seed and it can."""
    if seed is None or data is None:
        return data
    data, why = keyed(data, seed, name)
    if why:
        # Fmt: skip
        log.warning(
            "seed=%s does not reach the %s data: %s. A run that is continued goes through it again,"
            " which is exact if its order is decided when an epoch begins; give a DataLoader over a"
            " map-style dataset for more",
            seed,
            name,
            why,
        )
    return data


def model_of(
    model: Any, hparams: Mapping[str, Any] | None, seed: int | None = None
) -> torch.nn.Module:
    """The model, made from its class if that was given."""
    if isinstance(model, torch.nn.Module):
        if hparams:
            raise ConfigError(
                "hparams are for making a model; this one is made already, so give its class, or"
                " leave hparams out"
            )
        return model
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        try:
            with aside(key(seed, "model")) if seed is not None else nullcontext():
                return model(**(hparams or {}))
        except TypeError as error:
            error.add_note(
                f"statetrain: while making the model: {model.__name__}(**{dict(hparams or {})!r})"
            )
            raise
    raise ConfigError(f"model must be a torch.nn.Module or a class of one, got {model!r:.80}")


def module_of(model: Any) -> torch.nn.Module:
    """A module to evaluate or to predict with."""
    if isinstance(model, type):
        raise ConfigError(
            f"the class {model.__name__} has learnt nothing; give a trained model, or the run that"
            " fit returned"
        )
    return model_of(model, None)


def listeners(callbacks: Any) -> tuple[Callback, ...]:
    """Callbacks that were given as one or as several."""
    return (
        tuple(callbacks)
        if isinstance(callbacks, Iterable) and not isinstance(callbacks, type)
        else (callbacks,)
    )


def optimizers_of(
    given: Any, model: torch.nn.Module, hparams: dict[str, Any], lifecycle: Lifecycle | None
) -> dict[str, Optimizer]:
    """The optimizers by name, made from their classes if those were given."""
    if given is None:
        if lifecycle is not None and not lifecycle.by_role("step") and update_of(lifecycle) is None:
            return {}
        raise ConfigError(
            "fit needs an optimizer; give optimizer=torch.optim.Adam, opt_hparams={'lr': 1e-3}, or"
            " an instance"
        )
    if not isinstance(given, Mapping):
        return {"opt": _optimizer("opt", given, model, model, hparams)}
    if not given:
        raise ConfigError("optimizer={} names no optimizer")
    by_name = bool(hparams) and set(hparams) <= set(given)
    optimizers = {}
    for name, one in given.items():
        part = getattr(model, name, None)
        if not isinstance(one, Optimizer) and not isinstance(part, torch.nn.Module):
            parts = [child for child, _ in model.named_children()]
            raise ConfigError(
                f"optimizer {name!r} is a class, so it takes the parameters of model.{name}, which"
                f" is no module{did_you_mean(name, parts)} Or give an instance with the parameters"
                " that it is to train"
            )
        optimizers[name] = _optimizer(
            name, one, model, part, dict(hparams.get(name, {})) if by_name else hparams
        )
    return optimizers


def _optimizer(
    name: str, given: Any, model: torch.nn.Module, part: Any, hparams: dict[str, Any]
) -> Optimizer:
    if isinstance(given, Optimizer):
        if hparams:
            raise ConfigError(
                f"opt_hparams are for making an optimizer; {name!r} is made already, so give its"
                " class, or leave opt_hparams out"
            )
        optimizer = given
    else:
        parameters = [p for p in part.parameters() if p.requires_grad]
        if not parameters:
            raise ConfigError(
                f"the model has no parameter to train: {type(part).__name__} has none that requires"
                " a gradient"
            )
        if not callable(given):
            raise ConfigError(
                "optimizer must be an optimizer, its class, or a mapping of names to these, got"
                f" {given!r:.80}"
            )
        try:
            optimizer = given(parameters, **hparams)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"opt_hparams {hparams!r} do not make the optimizer"
                f" {getattr(given, '__name__', given)}: {error}"
            ) from error
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(
                f"optimizer {name!r} must make a torch.optim.Optimizer, got"
                f" {type(optimizer).__name__}"
            )
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ConfigError(
            f"optimizer {name!r} has none of the model's parameters, so training would change"
            " nothing; was it made for another instance? Make it from this model's parameters(),"
            " or give its class"
        )
    for group in optimizer.param_groups:
        if not math.isfinite(group.get("lr", 0.0)):
            raise ConfigError(
                f"optimizer {name!r} has the learning rate {group['lr']}, which is no finite number"
            )
    return optimizer


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether an optimizer's step cannot be made without a function that computes the loss, as LBFGS's."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def losses_of(
    given: Any,
    model: torch.nn.Module,
    optimizers: Mapping[str, Optimizer],
    compute: Any,
    lifecycle: Lifecycle | None,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """The loss for each optimizer, bound to what it reads."""
    names = list(optimizers) or ["opt"]
    if given is None:
        given = getattr(model, "loss", None)
    if given is None and (compute is not None or lifecycle is not None):
        return dict.fromkeys(names)
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise ConfigError(
                f"loss names {sorted(given)} must be those of the optimizers, {sorted(names)}"
            )
        losses = {name: given[name] for name in names}
    else:
        losses = dict.fromkeys(names, given)
    for loss in losses.values():
        if isinstance(loss, type):
            raise ConfigError(
                f"loss must be a function of prediction and target, got the class {loss.__name__};"
                f" write {loss.__name__}()"
            )
        if not callable(loss):
            got = "none" if loss is None else repr(loss)
            raise ConfigError(
                f"loss must be a function of prediction and target, got {got}; for example"
                " loss=torch.nn.functional.cross_entropy"
            )
        for module in modules_of(loss).values():
            module.to(accelerator.device)
    return losses


def evaluations_of(given: Any) -> list[Evaluation]:
    """Evaluations that were given as one or as several."""
    found = [given] if isinstance(given, Evaluation) else list(given)
    for one in found:
        if not isinstance(one, Evaluation):
            raise ConfigError(
                f'evaluations are made with their name: Evaluation("test", data); got {one!r:.80}'
            )
    twice = [
        one.name for i, one in enumerate(found) if one.name in [other.name for other in found[:i]]
    ]
    if twice:
        raise ConfigError(f"two evaluations are called {twice[0]!r}; give each a name of its own")
    return found


def set_losses(ctx: Context, losses: Mapping[str, Any]) -> None:
    """Gives a context its losses; those by keys read it."""
    ctx.loss_fns = bound(losses, ctx)
    ctx.loss_fn = next(iter(ctx.loss_fns.values()), None)  # type: ignore[assignment]  # there is none now


def reads_target(losses: Mapping[str, Any], tallies: Mapping[str, Tally]) -> bool:
    """Whether a batch without a target is of no use: a loss or a metric takes it."""
    keyed = [loss for loss in losses.values() if isinstance(loss, KeyedLoss | Losses)]
    if len(keyed) < sum(loss is not None for loss in losses.values()):
        return True
    named = any(root_of(path) == "target" for loss in keyed for path in loss.reads)
    return named or (bool(keyed) and any(counted.takes_pred for counted in tallies.values()))


def does(lifecycle: Lifecycle, action: Callable[[Any], None]) -> bool:
    """Whether a state does this, whatever a phase calls it."""
    return any(state.action is action for state in lifecycle.states)


def reads_loss(machine: Machine, accelerator: Accelerator) -> bool:
    """Whether the loss is read as a number in every batch: on the CPU always, elsewhere if somebody reads it."""
    late = does(machine.lifecycle, actions.report)  # then the device finds out what is not finite
    return (accelerator.device.type == "cpu" and not late) or "loss_value" in reads_of(machine)
