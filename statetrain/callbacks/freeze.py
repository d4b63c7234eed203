"""Freeze: parts of a model that are not trained, for some epochs or all; which weights decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from statetrain.callback import Callback
from statetrain.compute.train_modes import set_modes
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean
from statetrain.validators import check_not_negative, check_whole

if TYPE_CHECKING:
    from statetrain.context.context import Context


class Freeze(Callback):
    """Leaves parts of a model as they are, for the first epochs or for all.

        Freeze("backbone", until=3)               # trained from the fourth epoch on
        Freeze("backbone", until=3, lr=1e-4)      # and then with a learning rate of its own
        Freeze("backbone.stem", "embedding")      # never trained

    A frozen part has no gradients, so the optimizer leaves it out, its weight decay included; it is
    in eval mode, so that batch norm's statistics and dropout are those of a model that is used. The
    optimizer has to have its parameters from the beginning, as `fit` gives them to a class.
    Afterwards the parameters require gradients as they did before.

    What is frozen follows from the epoch alone, so a resumed run continues exactly.

    With `lr=`, the parts are a parameter group of their own from the beginning, so `LRScheduler`
    changes their rate in proportion to that of the others. (What would give all groups one rate, a
    `Schedule` of "opt.lr" or `OneCycleLR(max_lr=0.1)`, is refused.) Several of these are rates by
    layer; `until=0` freezes nothing:

        [Freeze("body.0", until=0, lr=1e-5), Freeze("body.1", until=0, lr=1e-4)]

    Args:
        names: of modules, or of parameters, as `named_modules` and `named_parameters` say.
        until: epochs in which they are frozen, at least 1, or 0 with `lr`; None is all.
        lr: the learning rate of their parameters, at least 0; None is the optimizer's.

    Raises:
        ConfigError: no name is given, or `until` or `lr` is not such a number; when a fit begins,
            that the model has no such part, or that no optimizer has it.
    """

    reads = ("epoch", "model")
    writes = ("model",)
    commutes_with = ("Freeze",)

    def __init__(self, *names: str, until: int | None = None, lr: float | None = None) -> None:
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(
                f"Freeze takes names of modules, such as Freeze('backbone'), got {names}"
            )
        if until is not None:
            check_whole("Freeze: until", until, int(lr is None), of="epochs")
        if lr is not None:
            check_not_negative("Freeze: lr", lr)
        if lr is not None and until is None:
            raise ConfigError(
                f"Freeze: lr={lr!r} would not be used, since the parts are never trained; say"
                " until=, or until=0 to train them from the start"
            )
        self.names, self.until, self.lr = names, until, lr
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._modules: list[torch.nn.Module] = []
        self._modes: list[tuple[torch.nn.Module, bool]] = []
        self._saved: dict[str, Any] | None = None
        self._frozen = False

    def check_context(self, ctx: Context) -> None:
        """Looks up the parts."""
        model = ctx.accelerator.unwrap(ctx.model)
        known = [*dict(model.named_modules()), *dict(model.named_parameters())]
        for name in self.names:
            if name not in known:
                near = did_you_mean(name, filter(None, known))
                raise ConfigError(f"Freeze: the model has no part {name!r}{near}")
        if self.lr is not None:
            own = set(map(id, self._parameters_in(model).values()))
            groups = [_rate_apart(one, own, self.lr) for one in ctx.optimizers.values()]
            if not any(groups):
                raise ConfigError(f"{self!r}: no optimizer has parameters of these parts")

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Finds the parts, and restores what they were when the run ends."""
        model = ctx.accelerator.unwrap(ctx.model)
        self._modules = [part for name, part in model.named_modules() if name in self.names]
        parameters = self._parameters_in(model).items()
        self._parameters = {name: one for name, one in parameters if one.requires_grad}
        # What the user has put into eval mode stays so afterwards; but a model that is in eval mode
        # as a whole is trained in train mode
        inner = (module for part in self._modules for module in part.modules())
        self._modes = [(module, module.training or not model.training) for module in inner]
        self._frozen = False
        ctx.defer(self._thaw)

    def _parameters_in(self, model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """The parameters of the parts, by name."""
        parts = [part for name, part in model.named_modules() if name in self.names]
        own = {id(p) for part in parts for p in part.parameters()}
        named = model.named_parameters()
        return {name: p for name, p in named if name in self.names or id(p) in own}

    def on_resume(self, ctx: Context) -> None:
        """Freezes what is frozen at that place of the run."""
        saved = self._saved
        self.on_enter_fit(ctx)
        if saved is not None:  # by now the model is as the checkpoint says, frozen
            inner = (module for module, _ in self._modes)
            self._modes = list(zip(inner, saved["training"], strict=True))
            named = dict(ctx.accelerator.unwrap(ctx.model).named_parameters())
            self._parameters = {name: named[name] for name in saved["parameters"]}
        if ctx.epoch:
            self.on_enter_epoch(ctx)

    def state_dict(self) -> dict[str, Any]:
        """What is to be in train mode and to require gradients when the parts are trained."""
        return {
            "training": [training for _, training in self._modes],
            "parameters": list(self._parameters),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._saved = state

    def on_enter_epoch(self, ctx: Context) -> None:
        """Freezes the parts, or trains them from now on."""
        if self.until is not None and ctx.epoch > self.until:
            self._thaw()
            return
        self._frozen = True
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        for module in self._modules:
            module.eval()

    def _thaw(self) -> None:
        if not self._frozen:
            return
        self._frozen = False
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        set_modes(self._modes)

    def __repr__(self) -> str:
        rate = f", lr={self.lr}" * (self.lr is not None)
        return f"Freeze({', '.join(map(repr, self.names))}, until={self.until}{rate})"


def _rate_apart(optimizer: torch.optim.Optimizer, own: set[int], lr: float) -> bool:
    """Gives parameters a learning rate of their own, in groups apart from the others.

    Args:
        optimizer: has them, or not.
        own: the ids of the parameters.
        lr: the rate.

    Returns:
        Whether it has any of them.
    """
    groups = optimizer.param_groups
    found = False
    for group in list(groups):
        mine = [id(p) in own for p in group["params"]]
        if not any(mine):
            continue
        found, part = True, group
        if not all(mine):
            part = dict(group)
            for name in {"params", "param_names"} & set(group):
                values = group[name]
                part[name] = [one for one, is_own in zip(values, mine, strict=True) if is_own]
                group[name] = [one for one, is_own in zip(values, mine, strict=True) if not is_own]
            groups.append(part)
        rate = group["lr"]
        part["lr"] = torch.full_like(rate, lr) if isinstance(rate, torch.Tensor) else lr
    return found


def decay_groups(
    modules: torch.nn.Module | Iterable[torch.nn.Module], weight_decay: float
) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices, which decay, and biases and scales, which do not.

        optimizer = torch.optim.AdamW(st.decay_groups(model, 0.1), lr=3e-4)

    Args:
        modules: a model, or several modules; parameters that require no gradient are left out.
        weight_decay: of all parameters of two dimensions or more, at least 0.

    Raises:
        ConfigError: the weight decay is below 0, or no parameter requires a gradient.
    """
    check_not_negative("decay_groups: weight_decay", weight_decay)
    if isinstance(modules, torch.nn.Module):
        modules = [modules]
    parameters = (p for module in modules for p in module.parameters())
    unique = dict.fromkeys(p for p in parameters if p.requires_grad)
    if not unique:
        raise ConfigError("decay_groups: there is no parameter that requires a gradient")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in unique if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in unique if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
