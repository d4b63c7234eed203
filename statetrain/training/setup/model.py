"""The model and its optimizers, on their device."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from attrs import frozen
from torch.nn.parameter import UninitializedParameter

from statetrain.compute.accelerator import Accelerator
from statetrain.compute.seeding import aside, key
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.naming import did_you_mean
from statetrain.ranks.size import world_size
from statetrain.standard.fusing import update_of
from statetrain.standard.parameters import parameters_of
from statetrain.training.setup.calling import refuse_schedule
from statetrain.validators import check_word

Optimizer = torch.optim.Optimizer


@frozen(eq=False)
class Trained:
    """What is trained, and where.

    Attributes:
        accelerator: what places and prepares.
        module: the model as it is run: wrapped, compiled.
        optimizers: by name, as they are run.
        compiling: the options of `torch.compile`; None without.
        compiled: what it compiles: "model", "step", "auto"; "" without.
    """

    accelerator: Accelerator
    module: torch.nn.Module
    optimizers: dict[str, Optimizer]
    compiling: dict[str, Any] | None
    compiled: str = ""

    @property
    def model(self) -> torch.nn.Module:
        """The model as the user knows it."""
        return self.accelerator.unwrap(self.module)

    @property
    def backward(self) -> Callable[..., None] | None:
        """The accelerator's own way to compute gradients; None for torch's, without the call."""
        if type(self.accelerator).backward is Accelerator.backward:
            return None
        return self.accelerator.backward


def make_model(
    model: Any,
    hparams: Mapping[str, Any] | None,
    optimizer: Any,
    opt_hparams: Mapping[str, Any] | None,
    accelerator: Accelerator,
    compiling: Any,
    seed: int | None,
    lifecycle: Lifecycle | None,
) -> Trained:
    """Makes the model and the optimizers, and moves them to the device.

    Args:
        model, hparams, optimizer, opt_hparams, seed: as `fit` takes them.
        accelerator: from `accelerator_for`.
        compiling: `compile` as `fit` takes it.
        lifecycle: the user's own, which may have no `step`; None for the standard one.

    Raises:
        ConfigError: the arguments make none.
    """
    for name, value in {"hparams": hparams, "opt_hparams": opt_hparams}.items():
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{name} are arguments by name, such as {{'lr': 0.1}}, got {value!r}")
    module = model_of(model, hparams, seed)
    _refuse_inference(module)
    given = optimizer.values() if isinstance(optimizer, Mapping) else (optimizer,)
    accelerator.prepare(module, [one for one in given if isinstance(one, Optimizer)])
    optimizers = optimizers_of(optimizer, module, dict(opt_hparams or {}), lifecycle)
    module, optimizers = accelerator.wrap(module, optimizers)
    what, options_given = compiling_of(compiling)
    if options_given is not None:
        module = accelerator.compile(module, options_given)
    return Trained(accelerator, module, optimizers, options_given, what)


def _refuse_inference(module: torch.nn.Module) -> None:
    """Raises a `ConfigError` for weights that torch lets no step change.

    Where the mode is still on, the run itself is refused.
    """
    ready = (own for own in module.parameters() if not isinstance(own, UninitializedParameter))
    made_in_it = any(own.is_inference() for own in ready)
    if made_in_it and not torch.is_inference_mode_enabled():
        raise ConfigError(
            "the model was made in torch.inference_mode(), so it cannot be trained; make it outside"
        )


def accelerator_for(given: Any, device: str | torch.device) -> Accelerator:
    """What was given for the accelerator behind our interface; that of a device, if nothing was."""
    if given is None and world_size() > 1:
        from statetrain.ranks.ddp import DDP

        return DDP(device)
    if given is None:
        return Accelerator(device)
    if device != "auto":
        raise ConfigError(
            f"device={device!r} would not be used: the accelerator has its own, {given.device}"
        )
    from statetrain.compute.huggingface import adapt

    return adapt(given)


_COMPILED = ("model", "step", "auto")


def compiling_of(given: Any) -> tuple[str, dict[str, Any] | None]:
    """What is compiled, and the options of `torch.compile`, of what `fit` takes as `compile`.

    Raises:
        ConfigError: it is something else.
    """
    if given is False:
        return "", None
    if given is True:
        return "model", {}
    options = {"what": given} if isinstance(given, str) else given
    if not isinstance(options, Mapping):
        raise ConfigError(
            "compile must be True, False, 'model', 'step', 'auto', or the options of torch.compile"
            f" by name, got {given!r:.80}"
        )
    options = dict(options)
    what = options.pop("what", "model")
    check_word("compile: what", what, _COMPILED)
    return what, options


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether torch compiles a module, in place or as one of its own."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


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


# ---------------------------------------------------------------- optimizers


def optimizers_of(
    given: Any, model: torch.nn.Module, hparams: dict[str, Any], lifecycle: Lifecycle | None
) -> dict[str, Optimizer]:
    """The optimizers by name, made from their classes if those were given."""
    if given is None:
        if lifecycle is not None and not has_step(lifecycle):
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
        own = dict(hparams.get(name, {})) if by_name else hparams
        optimizers[name] = _optimizer(name, one, model, _part_of(model, name, one), own)
    return optimizers


def has_step(life: Lifecycle) -> bool:
    """Whether a lifecycle has a state that updates the weights."""
    return bool(life.by_role("step")) or update_of(life) is not None


def _part_of(model: torch.nn.Module, name: str, given: Any) -> Any:
    """The part of a model whose parameters an optimizer takes that is given as a class."""
    part = getattr(model, name, None)
    if not isinstance(given, Optimizer) and not isinstance(part, torch.nn.Module):
        parts = [child for child, _ in model.named_children()]
        raise ConfigError(
            f"optimizer {name!r} is a class, so it takes the parameters of model.{name}, which"
            f" is no module{did_you_mean(name, parts)} Or give an instance with the parameters"
            " that it is to train"
        )
    return part


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
        optimizer = _make_optimizer(name, given, part, hparams)
    _check_optimizer(name, optimizer, model)
    return optimizer


def _make_optimizer(name: str, given: Any, part: Any, hparams: dict[str, Any]) -> Optimizer:
    parameters = [p for p in part.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(
            f"the model has no parameter to train: {type(part).__name__} has none that requires"
            " a gradient"
        )
    refuse_schedule(given, "optimizer")
    if not callable(given):
        raise ConfigError(
            "optimizer must be an optimizer, its class, or a mapping of names to these, got"
            f" {given!r:.80}; for example optimizer=torch.optim.Adam, opt_hparams={{'lr': 1e-3}}"
        )
    try:
        optimizer = given(parameters, **fused_on_devices(given, parameters, hparams))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"opt_hparams {hparams!r} do not make the optimizer"
            f" {getattr(given, '__name__', given)}: {error}"
        ) from error
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"optimizer {name!r} must make a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    return optimizer


# Torch has kernels for their fused steps on these devices
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_DEVICES = {"cuda", "mps"}
_IMPLEMENTATIONS = {"fused", "foreach", "differentiable"}


def fused_on_devices(
    given: Any, parameters: Iterable[torch.Tensor], hparams: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of an optimizer class, with torch's fused step on a device.

    It is the fastest there, and can leave a step out without the host waiting.

    Args:
        given: the class.
        parameters: what it is to train.
        hparams: the user's arguments. What says how the step is computed stays as it is.
    """
    devices = {p.device.type if p.is_floating_point() else "" for p in parameters}
    if given not in _FUSED or not devices <= _DEVICES or _IMPLEMENTATIONS & hparams.keys():
        return dict(hparams)
    return {"fused": True, **hparams}


def _check_optimizer(name: str, optimizer: Optimizer, model: torch.nn.Module) -> None:
    own = set(map(id, model.parameters()))
    if own.isdisjoint(map(id, parameters_of(optimizer))):
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


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether an optimizer's step needs a function that computes the loss, as LBFGS's does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
