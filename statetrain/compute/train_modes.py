"""Train and eval mode of modules, set as a class that overrides `train` wants it.

Such a method does more than to set flags: it keeps batch norm in eval mode, or merges the weights
of an adapter. Where parts go back to modes of their own, it is called, too.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def train(model: torch.nn.Module) -> None:
    """Puts a model into train mode; what is in eval mode inside a model in train mode stays so."""
    if not model.training:
        model.train()
        return
    resting = [part for part in model.modules() if not part.training]
    for part in model.modules():
        if part.training and _overrides_train(part):
            part.train()
    set_modes((part, False) for part in resting)


def set_modes(modes: Iterable[tuple[torch.nn.Module, bool]]) -> None:
    """Gives each module a mode of its own.

    Args:
        modes: modules with whether they train; parts after what holds them.
    """
    for module, training in modes:
        set_mode(module, training)


def set_mode(module: torch.nn.Module, training: bool) -> None:
    """Gives a module a mode, without its parts, unless it overrides `train`."""
    if module.training == training:
        return
    if _overrides_train(module):
        module.train(training)
    else:
        module.training = training


def _overrides_train(module: torch.nn.Module) -> bool:
    """Whether its class, or the module itself, has a `train` of its own."""
    return getattr(module.train, "__func__", None) is not torch.nn.Module.train
