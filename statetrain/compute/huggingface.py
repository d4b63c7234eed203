"""Hugging Face's `accelerate.Accelerator` in the place of ours (the extra `accelerate`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from attrs import define, field

from statetrain.compute.accelerator import Accelerator
from statetrain.errors import ConfigError


@define(eq=False)
class HuggingFace(Accelerator):
    """An `accelerate.Accelerator` behind our interface.

    It prepares model and optimizers, and runs backward.

    Its mixed precision is its own: it wraps the model when it prepares it. Batches are placed by us
    on its device.

    Args:
        hf: the `accelerate.Accelerator`.
    """

    hf: Any = field(default=None, kw_only=True)

    def wrap(
        self, model: torch.nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> tuple[torch.nn.Module, dict[str, torch.optim.Optimizer]]:
        prepared = self.hf.prepare(model, *optimizers.values())
        if not optimizers:
            return prepared, {}
        return prepared[0], dict(zip(optimizers, prepared[1:], strict=True))

    def unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        return super().unwrap(self.hf.unwrap_model(super().unwrap(model)))

    def backward(self, loss: torch.Tensor, inputs: Any = None) -> None:
        """Computes the gradients, scaled where the accelerator scales them."""
        with torch.enable_grad():  # it divides the loss first
            self.hf.backward(loss, inputs=inputs)

    def autocast(self, dtype: str = "") -> AbstractContextManager[None]:
        if dtype and self.hf.mixed_precision == "no":
            return super().autocast(dtype)
        return self.hf.autocast()  # type: ignore[no-any-return]  # accelerate has no types


def adapt(accelerator: Any) -> Accelerator:
    """An accelerator of ours as it is; one of Hugging Face behind our interface.

    Raises:
        ConfigError: it is neither, or it runs several processes.
    """
    if isinstance(accelerator, Accelerator):
        return accelerator
    if not all(
        hasattr(accelerator, name) for name in ("prepare", "backward", "unwrap_model", "device")
    ):
        raise ConfigError(
            "accelerator must be a statetrain.Accelerator or an accelerate.Accelerator, got"
            f" {accelerator!r:.80}"
        )
    if getattr(accelerator, "num_processes", 1) > 1:
        raise ConfigError(
            f"this accelerator runs {accelerator.num_processes} processes, and would replicate the"
            " model by itself; leave accelerator= out under `accelerate launch`, or give st.DDP()"
        )
    if getattr(accelerator, "gradient_accumulation_steps", 1) > 1:
        raise ConfigError(
            "this accelerator accumulates gradients by itself; make it without, and say fit(...,"
            " accumulate=...)"
        )
    if getattr(accelerator, "mixed_precision", "no") == "fp16":
        raise ConfigError(
            "this accelerator scales the loss by itself, which callbacks would not know of; make it"
            " without, and say precision='fp16'"
        )
    return HuggingFace(accelerator.device, hf=accelerator)
