"""Steps that are not made where something is not finite, decided on the device, so that the host never waits.

Theory of operation
-------------------
A flag of shape () on the device says whether a loss or a gradient of the window is not finite. An optimizer that torch
calls fused takes it as `found_inf`, as it does from the scaler of float16, and leaves weights and its own state as they
are where it is set. (Multiplying gradients by 0 would not do: NaN times 0 is NaN, and momentum moves all the same.) Buffers
are put back by `torch.where`. The number of masked steps, and the first of them, are counted on the device too.

The host learns of it late: every so many steps the two numbers are copied, without waiting, into memory that the device
can write to by itself, and are read when the next copy is due. Only a host that is ahead by all these steps waits then, for
the copy: else it would depend on chance at which step a run hears of it. `record` reads what is left; it waits for the device
anyway.

An optimizer that is not fused cannot be told so. For it the host reads the flag before each step, and waits.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, field


@define(eq=False)
class Mask:
    """What a device has found that is not finite.

    Args:
        device: where the run computes.
    """

    device: torch.device
    flag: torch.Tensor = field(init=False)  # shape (), bool: of this window
    found: torch.Tensor = field(init=False)  # shape (2,), int64: steps masked, and the number of the first, or -1
    asked: torch.Tensor = field(init=False)  # the same on the host, as it was when it was last asked for
    _there: Any = field(default=None, init=False)  # on CUDA, the event after which it is

    def __attrs_post_init__(self) -> None:
        self.flag = torch.zeros((), dtype=torch.bool, device=self.device)
        self.found = torch.tensor([0, -1], device=self.device)
        self.asked = torch.tensor([0, -1], pin_memory=self.device.type == "cuda")

    def see(self, loss: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Looks at a loss; gives what it adds to the mean of the epoch, and how many samples count for it."""
        finite = torch.isfinite(loss)
        self.flag.logical_or_(~finite)
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.where(finite, loss, 0.0).to(exact) * size, finite * size

    def step(self, optimizer: Any, number: int | torch.Tensor, buffers: Any) -> None:
        """Makes a step unless the loss of the window or a gradient is not finite, and forgets the window.

        Args:
            optimizer: whose step it is.
            number: of the step, for the report; on the device where the step is recorded as a graph.
            buffers: what puts the buffers back as they were before the window; None if there are none.
        """
        self._make(optimizer)
        if buffers is not None:
            buffers.put_back_where(self.flag)
        first = torch.where(self.flag & (self.found[1] < 0), number, self.found[1])
        self.found.copy_(torch.stack([self.found[0] + self.flag, first]))
        self.flag.zero_()

    def _make(self, optimizer: Any) -> None:
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if trained:
            self.flag.logical_or_(~torch.isfinite(torch.nn.utils.get_total_norm([p.grad for p in trained])))
        if masks(optimizer):
            fresh = [p for p in trained if not optimizer.state.get(p)]
            optimizer.grad_scale, optimizer.found_inf = None, self.flag.float()
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf
            self._begin(optimizer, fresh)
        elif not self.flag.item():  # the host waits
            optimizer.step()

    def _begin(self, optimizer: Any, fresh: list[torch.Tensor]) -> None:
        """Makes zeros of what torch's fused SGD leaves uninitialised if the very first step is masked: its momentum."""
        for parameter in fresh:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    value.copy_(torch.where(self.flag, 0.0, value))

    def drop(self) -> None:
        """Forgets the window."""
        self.flag.zero_()

    def ask(self) -> None:
        """Begins to copy what has been found to the host; nobody waits."""
        self.asked.copy_(self.found, non_blocking=True)
        if self.device.type == "cuda":
            self._there = torch.cuda.current_stream(self.device).record_event()

    def answer(self) -> tuple[int, int]:
        """What the copy that was asked for last says; as a rule it came long ago."""
        if self._there is not None:
            self._there.synchronize()
        masked, first = self.asked.tolist()
        return masked, first

    def now(self) -> tuple[int, int]:
        """What has been found by now; the host waits."""
        masked, first = self.found.tolist()
        return masked, first

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All of it, as tensors."""
        return {"flag": self.flag, "found": self.found, "asked": self.asked}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes what `state_dict` gave."""
        for name, own in self.state_dict().items():
            own.copy_(state[name])


def masks(optimizer: Any) -> bool:
    """Whether an optimizer can leave out a step on the device; the fused ones of torch can.

    One with dampened momentum cannot be told that its first step is still to come.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False)) and not optimizer.defaults.get("dampening", 0)
