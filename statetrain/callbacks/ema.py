"""EMA: an average of the weights over the steps, for validation and for the end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from statetrain.callback import Callback, unwrapped
from statetrain.callbacks.keep_best import KeepBest
from statetrain.compute.parts import copies_of, is_part, local, part_like
from statetrain.compute.weights import exchange, modules_of, pairs_of, tensors_of
from statetrain.errors import ConfigError
from statetrain.outcome import Failed
from statetrain.validators import check_switches, check_whole, is_number

if TYPE_CHECKING:
    from statetrain.context.context import Context

# Statistics, whose averages are statistics again. Other buffers, such as the vectors of a spectral
# norm or a counter, are those of the model.
_STATISTICS = ("running_mean", "running_var")


class EMA(Callback):
    """Averages the weights over the steps, with the functions of `torch.optim.swa_utils`.

        ema = st.EMA(0.999)
        run = st.fit(..., callbacks=ema)
        ema.model                            # the averaged model: predict with it, save its weights

    With `valid=True`, validation and evaluations look at the average: it changes places with the
    weights when their scope opens, and back when it closes, so `valid_loss` is the average's.
    `KeepBest` and `SaveWeights` then keep what was judged, the average. With `restore=True` the
    model has the average when the run ends, unless it failed, and an `Evaluation` at the "end"
    looks at it.

    It is part of a checkpoint, and a run that is resumed continues exactly;
    `load_checkpoint(model, folder, average=True)` gets it out of one. The parameters of losses that
    are modules are averaged, too. Of the buffers, batch norm's statistics are averaged; all others
    are the model's own.

    Frozen parameters, which require no gradient, are neither averaged nor copied, nor saved with
    it: the average shares their memory with the model. Where one is trained later, its average
    begins with the first update after that. (With `FSDP`, all parameters are copied.)

    Args:
        decay: how much of the old average each step keeps, from 0 up to, not including, 1; None
            averages all steps alike (SWA).
        start: steps before the average begins; at least 0. Until its first update it is a copy of
            the weights.
        every: steps from one update to the next, at least 1.
        valid: whether validation and evaluations look at the average.
        restore: whether the model has the average when the run ends.
        buffers: whether batch norm's statistics are averaged; else they are copied.

    Raises:
        ConfigError: an argument is out of range; when a fit begins, that `restore=True` and
            `KeepBest` would both put weights back.
    """

    reads = ("epoch", "loss_fns", "model", "outcome", "step")
    writes = ("model",)

    def __init__(
        self,
        decay: float | None = 0.999,
        *,
        start: int = 0,
        every: int = 1,
        valid: bool = False,
        restore: bool = False,
        buffers: bool = True,
    ) -> None:
        if decay is not None and (not is_number(decay) or not 0 <= decay < 1):
            raise ConfigError(
                "EMA: decay is from 0 up to, not including, 1, or None for a plain mean, got"
                f" {decay!r}"
            )
        check_whole("EMA: start", start, 0, of="steps")
        check_whole("EMA: every", every, of="steps")
        check_switches("EMA", valid=valid, restore=restore, buffers=buffers)
        self.decay, self.start, self.every, self.valid, self.restore, self.buffers = (
            decay,
            start,
            every,
            valid,
            restore,
            buffers,
        )
        self._own: list[torch.nn.Module] = []  # the run's modules
        self._copies: list[torch.nn.Module] = []  # those with the average; made when needed
        self._shared: set[str] = set()  # the frozen parameters whose memory is the model's own
        self._count = 0  # of the updates
        self._late: dict[str, int] = {}  # updates before the first, of those trained later
        self._step = 0  # the step that was looked at last
        self._swapped = False  # whether the model has the average at the moment
        # Whether what is evaluated now has the weights that the run ends with
        self._final = False
        # Loaded, for the copies that are made when the run is resumed
        self._state: dict[str, Any] | None = None
        if valid:  # hooks that are not needed would cost something in each validation
            self.on_enter_valid, self.on_exit_valid = self._show, self._hide
        if restore:
            self.on_enter_ending, self.on_exit_ending = self._end, self._go_back

    @property
    def model(self) -> torch.nn.Module:
        """The averaged model, of the model's own class; before the first update a copy of it.

        Raises:
            ConfigError: no run has begun.
        """
        if not self._own:
            raise ConfigError("EMA has no average before a run has begun")
        self._make()
        return self._copies[0]

    def judged_modules(self) -> list[torch.nn.Module]:
        """The modules that validation looks at, where these are not the run's own."""
        if not self.valid or self._count == 0 or self._swapped:
            return []
        return self._copies

    def check_context(self, ctx: Context) -> None:
        """Checks whether something else restores weights, too."""
        if self.restore and any(isinstance(unwrapped(one), KeepBest) for one in ctx.callbacks):
            raise ConfigError(
                "EMA(restore=True) and KeepBest would both give the model other weights at the end;"
                " leave restore=True out: with EMA(valid=True), KeepBest keeps the average that was"
                " best"
            )

    # ------------------------------------------------------------ hooks

    def on_enter_fit(self, ctx: Context) -> None:
        """Forgets an earlier run's average; a fit that continues a run keeps it."""
        if ctx.epoch == 0 or not self._own:
            self._forget(ctx)
        self._begin(ctx)

    def on_resume(self, ctx: Context) -> None:
        """Continues the average that was saved."""
        self._forget(ctx)
        self._begin(ctx)
        if self._state is not None:
            saved = self._state["average"]
            self._copy({name for name, _ in _parameters_of(self._own) if name not in saved})
            for name, _, mine in self._pairs():
                if name in saved:
                    mine.copy_(part_like(saved[name], mine))
            self._count, self._swapped = self._state["count"], self._state["swapped"]
            self._final, self._late = self._state["final"], dict(self._state["late"])
            self._state = None

    def on_exit_step(self, ctx: Context) -> None:
        """Takes in the new weights."""
        if ctx.step == self._step:
            # A step that was left by an event, or one of several optimizers' that is no round yet
            return
        self._step = ctx.step
        since = ctx.step - self.start
        if since > 0 and since % self.every == 0:
            self._take_in()

    def _show(self, ctx: Context) -> None:
        """Gives the model the average while it is validated."""
        self._final = self._swapped or _shows_best(ctx)
        if not self._final:
            self._swap()

    def _hide(self, ctx: Context) -> None:
        """Gives it its own weights again."""
        if not self._final:
            self._swap()
        self._final = False

    def _end(self, ctx: Context) -> None:
        """Gives the model the average, for the evaluations at the end."""
        self._swap()

    def _go_back(self, ctx: Context) -> None:
        """Gives it the weights of the training, which a checkpoint has."""
        self._swap()

    # ------------------------------------------------------------ the average

    def _begin(self, ctx: Context) -> None:
        self._own, self._swapped, self._final = modules_of(ctx), False, False
        ctx.defer(partial(self._finish, ctx))

    def _forget(self, ctx: Context) -> None:
        self._copies, self._count, self._step = [], 0, ctx.step
        self._shared, self._late = set(), {}

    def _pairs(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """The tensors that have an average, with it."""
        for name, own, mine in pairs_of(self._own, self._copies):
            if name not in self._shared:
                yield name, own, mine

    def _make(self) -> None:
        """Makes the copies; until the first update they have the weights of the moment."""
        if not self._copies:
            self._copy({name for name, one in _parameters_of(self._own) if _is_frozen(one)})
        elif self._count == 0:
            for _, own, mine in self._pairs():
                mine.copy_(own.detach())

    def _copy(self, shared: set[str]) -> None:
        """Makes the copies, in which some parameters have the memory of the model's own."""
        parameters = dict(_parameters_of(self._own))
        if any(map(is_part, parameters.values())):
            shared = set()  # of weights in parts, copies are made in another way
        self._shared = shared
        self._copies = copies_of(self._own, shared=[parameters[name] for name in shared])
        for module in self._copies:
            module.eval().requires_grad_(False)

    def _separate(self) -> None:
        """Gives those parameters that are no longer frozen memory of their own."""
        if not self._shared:
            return
        for name, own, mine in list(pairs_of(self._own, self._copies)):
            if name in self._shared and not _is_frozen(own):
                mine.data = own.detach().clone()
                self._shared.discard(name)
                self._late[name] = self._count

    def _take_in(self) -> None:
        """Does what `AveragedModel.update_parameters` does, without waiting for a device.

        That one copies its counter to the device in each step.
        """
        if not self._copies:
            self._make()
        self._separate()
        average = get_swa_multi_avg_fn()
        if self.decay is not None:
            average = get_ema_multi_avg_fn(self.decay)
        groups: dict[Any, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for name, own, mine in self._pairs():
            count = self._count - self._late.get(name, 0)
            moves = count > 0 and self._is_averaged(name, own)
            mines, owns = groups.setdefault((moves, count, own.dtype, own.device), ([], []))
            mines.append(local(mine.detach()))
            owns.append(local(own.detach()))
        for (moves, count, _, _), (mines, owns) in groups.items():
            if moves:
                average(mines, owns, count)
            else:
                torch._foreach_copy_(mines, owns)
        self._count += 1

    def _is_averaged(self, name: str, own: torch.Tensor) -> bool:
        if not (own.is_floating_point() or own.is_complex()):
            return False  # batch norm's counter
        if isinstance(own, torch.nn.Parameter):
            return True
        return self.buffers and name.rpartition(".")[2] in _STATISTICS

    def _swap(self) -> None:
        if self._count > 0:  # before, the average is a copy of the weights
            exchange(self._pairs())
            self._swapped = not self._swapped

    def _finish(self, ctx: Context) -> None:
        if self._swapped:  # the run ended within a validation
            self._swap()
        if self.restore and self._count > 0 and not isinstance(ctx.outcome, Failed):
            for _, own, mine in self._pairs():
                own.detach().copy_(mine)

    # ------------------------------------------------------------ saved and put back

    def state_dict(self) -> dict[str, Any]:
        """The average, how many updates it has, and whether the model has it at the moment."""
        if self._count == 0:
            return {}
        average = {name: mine for name, _, mine in self._pairs()}
        return {
            "average": average,
            "count": self._count,
            "late": dict(self._late),
            "swapped": self._swapped,
            "final": self._final,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps a state for the average that is made when the run is resumed."""
        self._state = state or None

    def __repr__(self) -> str:
        return f"EMA({self.decay})"


def _parameters_of(modules: list[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name, tensor in tensors_of(modules):
        if isinstance(tensor, torch.nn.Parameter):
            yield name, tensor


def _is_frozen(parameter: torch.Tensor) -> bool:
    """Whether no step changes it; an optimizer still applies a gradient from before."""
    return not parameter.requires_grad and parameter.grad is None


def _shows_best(ctx: Context) -> bool:
    """Whether the model has the weights that `KeepBest` keeps, since the run is about to end."""
    return any(isinstance(one, KeepBest) and one.is_shown for one in map(unwrapped, ctx.callbacks))
