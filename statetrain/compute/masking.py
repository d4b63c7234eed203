"""Steps that are skipped where something is not finite, decided on the device.

The host never waits.

Theory of operation ------------------- A flag of shape () on the device says whether a loss or a
gradient of the window is not finite; torch's own kernel of the scaler of float16 looks at all of
them at once. An optimizer that torch calls fused takes the flag as `found_inf`, as it does from
that scaler, and leaves weights and its own state as they are where it is set. (Multiplying
gradients by 0 would not do: NaN times 0 is NaN, and momentum moves all the same.) Buffers are put
back by `torch.where`. The number of masked steps, and the first of them, are counted on the device
too. Each of these is started by the host, so there are as few as can be.

The host learns of it late: every so many steps the two numbers are copied, without waiting, into
memory that the device can write to by itself, and are read when the next copy is due. Only a host
that is ahead by all these steps waits then, for the copy: else it would depend on chance at which
step a run hears of it. `record` reads what is left; it waits for the device anyway.

An optimizer that is not fused cannot be told so. For it the host reads the flag before each step,
and waits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import define, field

from statetrain.compute.keeping import Buffers
from statetrain.standard.parameters import parameters_of

# Where and for what torch's kernel is used: on MPS it forgets what it found before, and on CUDA it
# knows no bfloat16.
_DEVICES = ("cpu", "cuda", "meta")
_TYPES = (torch.float32, torch.float64)


@define(eq=False)
class Mask:
    """What a device has found that is not finite.

    Args:
        device: where the run computes.
    """

    device: torch.device
    # Shape (), float32: 1 if something of this window is not finite, else 0
    flag: torch.Tensor = field(init=False)
    # Shape (2,): how many steps were masked, and the number of the first, or infinity
    found: torch.Tensor = field(init=False)
    # The same on the host, as it was when it was last asked for
    asked: torch.Tensor = field(init=False)
    _masked: torch.Tensor = field(init=False)  # parts of `found`
    _first: torch.Tensor = field(init=False)
    _one: torch.Tensor = field(init=False)
    # The buffers with a copy of them as they were before this window, which is saved with the rest
    held: Buffers | None = field(default=None, init=False)
    saved: list[torch.Tensor] = field(factory=list, init=False)  # that copy, of a run that resumes
    # On CUDA, the event after which `asked` is what it was asked for
    _there: Any = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.flag, self._one = (
            torch.zeros((), device=self.device),
            torch.ones((), device=self.device),
        )
        self.found = torch.tensor([0.0, torch.inf], dtype=_exact(self.device), device=self.device)
        self._masked, self._first = self.found
        self.asked = torch.tensor(
            [0.0, torch.inf], dtype=_exact(self.device), pin_memory=self.device.type == "cuda"
        )

    def see(self, loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Checks a loss; returns its part in the epoch's mean, and whether it counts.

        A loss that is not finite gives 0.
        """
        value = loss.to(_exact(self.device), copy=True)
        self._look([value])
        counts = torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
        return counts, value == counts

    def step(self, optimizer: Any, number: int | torch.Tensor, buffers: Any) -> None:
        """Makes a step unless the window's loss or a gradient is not finite.

        Then the window is forgotten.

        Args:
            optimizer: whose step it is.
            number: of the step, for the report; on the device where the step is recorded as a
                graph.
            buffers: what puts the buffers back as they were before the window; None if there are
                none.
        """
        trained = [p for p in parameters_of(optimizer) if p.grad is not None]
        self._look([p.grad for p in trained])
        if masks(optimizer):
            fresh = [p for p in trained if not optimizer.state.get(p)]
            optimizer.grad_scale, optimizer.found_inf = None, self.flag
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf
            self._begin(optimizer, fresh)
        elif not self.flag.item():  # the host waits
            optimizer.step()
        if buffers is not None:
            buffers.put_back_where(self.flag > 0)
        self._masked.add_(self.flag)
        there = number
        if not isinstance(number, torch.Tensor):
            there = torch.full_like(self._first, number)
        torch.minimum(self._first, there / self.flag, out=self._first)  # by 0, it is infinite
        self.flag.zero_()

    def _look(self, tensors: list[torch.Tensor]) -> None:
        """Sets the flag if anything in them is not finite. They are multiplied by 1."""
        numbers = [_numbers(tensor) for tensor in tensors]
        at_once = []
        if self.device.type in _DEVICES:
            at_once = [tensor for tensor in numbers if tensor.dtype in _TYPES]
        if at_once:
            torch._amp_foreach_non_finite_check_and_unscale_(at_once, self.flag, self._one)
        if len(at_once) < len(numbers):
            others = numbers
            if at_once:
                others = [tensor for tensor in numbers if tensor.dtype not in _TYPES]
            bad = ~torch.isfinite(torch.nn.utils.get_total_norm(others))
            torch.maximum(self.flag, bad.to(self.flag.dtype), out=self.flag)

    def _begin(self, optimizer: Any, fresh: list[torch.Tensor]) -> None:
        """Zeros the momentum that torch's fused SGD leaves uninitialised.

        It does so if the very first step is masked.
        """
        for parameter in fresh:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    value.copy_(torch.where(self.flag > 0, 0.0, value))

    def drop(self) -> None:
        """Forgets the window."""
        self.flag.zero_()

    def ask(self) -> None:
        """Starts copying what has been found to the host, without waiting."""
        self.asked.copy_(self.found, non_blocking=True)
        if self.device.type == "cuda":
            self._there = torch.cuda.current_stream(self.device).record_event()

    def answer(self) -> tuple[int, int]:
        """What the copy that was asked for last says; as a rule it came long ago."""
        if self._there is not None:
            self._there.synchronize()
        return _read_counts(self.asked)

    def now(self) -> tuple[int, int]:
        """What has been found by now; the host waits."""
        return _read_counts(self.found)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All of it, as tensors; the copies of buffers among them."""
        own = {"flag": self.flag, "found": self.found, "asked": self.asked}
        if self.held is None:
            copies = self.saved
        else:
            copies = self.held.copies
        return own | {f"held.{i}": copy for i, copy in enumerate(copies)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what `state_dict` returned."""
        for name, own in (("flag", self.flag), ("found", self.found), ("asked", self.asked)):
            own.copy_(state[name])
        held = sum(name.startswith("held.") for name in state)
        self.saved = [state[f"held.{i}"] for i in range(held)]


def _exact(device: torch.device) -> torch.dtype:
    if device.type == "mps":
        return torch.float32
    return torch.float64


def _numbers(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor is made of: of a sparse one its values, of complex numbers both parts."""
    values = tensor
    if tensor.is_sparse:
        values = tensor._values()
    if values.is_complex():
        return torch.view_as_real(values)
    return values


def _read_counts(found: torch.Tensor) -> tuple[int, int]:
    """How many steps were masked, and the number of the first, -1 if there is none."""
    masked, first = found.tolist()
    return int(masked), -1 if math.isinf(first) else int(first)


def masks(optimizer: Any) -> bool:
    """Whether an optimizer can leave out a step on the device; the fused ones of torch can.

    One with dampened momentum cannot be told that its first step is still to come.
    """
    return bool(
        getattr(optimizer, "_step_supports_amp_scaling", False)
    ) and not optimizer.defaults.get("dampening", 0)
