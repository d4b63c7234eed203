"""Where a run computes: one device, and what depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, field
from torch.optim.optimizer import register_optimizer_step_post_hook

from statetrain.compute import climbing, keeping, keyed, seeding, train_modes, weights
from statetrain.compute.chance import Chance, chance_of
from statetrain.data.combining import Combined
from statetrain.data.placing import pin
from statetrain.errors import ConfigError
from statetrain.standard.parameters import parameters_of

if TYPE_CHECKING:
    from statetrain.context.context import Context
    from statetrain.standard.several import Sharing


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device that a word stands for.

    Args:
        device: a torch device, its name, or "auto": CUDA if there is one, else MPS, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or it is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}; 'auto' takes the best"
            " there is"
        ) from error
    return chosen


def _calling(model: torch.nn.Module) -> Callable[..., Any]:
    """What a call of a module does, hooks included."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return model._call_impl(*args, **kwargs)

    return call


def _copied(function: Any) -> Any:
    """A function with a copy of its code: with the code, torch keeps what it has compiled.

    So runs do not use up how often it may be compiled for each other.
    """
    return FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


_ZERO_GRAD = torch.optim.Optimizer.zero_grad


@define(eq=False)
class Accelerator:
    """One device: placing the model and the batches on it, backward, gradient mode.

    Args:
        device: see `choose_device`.
    """

    device: torch.device = field(factory=choose_device, converter=choose_device)

    # The C functions behind torch.set_grad_enabled: a tenth of its cost, and it is switched four
    # times a batch.
    set_grad: Callable[[bool], None] = field(
        default=torch._C._set_grad_enabled, init=False, repr=False
    )
    grad_enabled: Callable[[], bool] = field(default=torch.is_grad_enabled, init=False, repr=False)

    sharing: Sharing | None = field(default=None, init=False, repr=False)
    """What one of several ranks takes of each batch; None in one process."""

    key: tuple[Any, ...] = field(default=(), init=False, repr=False)
    """What is added to the keys of random numbers: ranks draw different ones for the same batch."""

    _stream: Any = field(default=None, init=False, repr=False)
    # A batch, the same placed, when it is there
    _ahead: tuple[Any, Any, Any] | None = field(default=None, init=False, repr=False)

    def prepare(
        self, model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()
    ) -> None:
        """Moves a model, and the state of its optimizers, to the device, in place.

        A model that is there already is not touched: other threads may be using it.
        """
        if not self._has(model):
            model.to(self.device)
        for optimizer in optimizers:
            for state in optimizer.state.values():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor) and value.ndim:
                        state[name] = value.to(self.device)

    def _has(self, model: torch.nn.Module) -> bool:
        """Whether all tensors of a model are on the device."""
        there = torch.empty(0, device=self.device).device  # with its number
        return all(tensor.device == there for tensor in (*model.parameters(), *model.buffers()))

    def wrap(
        self, model: torch.nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> tuple[torch.nn.Module, dict[str, torch.optim.Optimizer]]:
        """Model and optimizers as they are to be run; here, as they are."""
        return model, dict(optimizers)

    def compile(self, model: Any, options: Mapping[str, Any]) -> Any:
        """What `torch.compile` compiles when it is first called.

        Args:
            model: a module, which is compiled in place and stays the same object, as by
                `model.compile()`; or a function.
            options: of `torch.compile`: `backend`, `mode`, `dynamic`, `fullgraph`, `options`.

        Raises:
            ConfigError: torch has no such option or backend, or the model is sharded.
        """
        if self.sharing is not None and self.sharing.shards:
            raise ConfigError(
                "st.FSDP cannot train with compile= so far; leave it out, or train with st.DDP"
            )
        # Torch takes some out of `options`
        own: dict[str, Any] = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in options.items()
        }
        try:
            if not isinstance(model, torch.nn.Module):
                return torch.compile(_copied(model), **own)
            # `model.compile()` leaves out modules of torch itself, such as a `Sequential`
            model._compiled_call_impl = torch.compile(_copied(_calling(model)), **own)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"compile={dict(options)!r} are no options of torch.compile:"
                f" {str(error).strip().splitlines()[0]}"
            ) from error
        return model

    def unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The user's own model of one that `wrap` or `compile` returned."""
        return getattr(model, "_orig_mod", model)  # of one that was compiled, the model itself

    # ------------------------------------------------------------ batches

    def place_ahead(self, batch: Any, place: Callable[[Any], Any]) -> None:
        """Starts copying a batch to the device on a separate stream, while others compute.

        Untested on a device.

        Where there are no streams it does nothing, and `placed` places the batch.

        Args:
            batch: on the host; what is not in pinned memory is copied there first, since only from
                there a copy needs no help.
            place: what places a batch.
        """
        if self.device.type != "cuda":
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        # Batches that were released leave their memory to this stream, which may write to it at
        # once, while what is queued still
        # reads it. So the copy begins after that, and runs while the current batch is trained
        # on.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            # Torch keeps pinned memory until the copy out of it is through
            placed = place(pin(batch))
            self._ahead = (batch, placed, self._stream.record_event())

    def placed(self, batch: Any, place: Callable[[Any], Any]) -> Any:
        """A batch on the device: the one that was placed ahead, if that is it."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] is not batch:
            return place(batch)
        torch.cuda.current_stream(self.device).wait_event(ahead[2])
        return ahead[1]

    def backward(self, loss: torch.Tensor, inputs: Any = None) -> None:
        """Computes the gradients of a loss, shape ().

        Args:
            loss: with its graph.
            inputs: the parameters whose gradients are computed; None is all that the loss was
                computed from.
        """
        loss.backward(inputs=inputs)

    @contextmanager
    def steps_made(self) -> Iterator[list[torch.optim.Optimizer]]:
        """While it is open, it lists the optimizers that make a step, once for each."""
        stepped: list[torch.optim.Optimizer] = []
        handle = register_optimizer_step_post_hook(lambda one, *_: stepped.append(one))
        try:
            yield stepped
        finally:
            handle.remove()

    def autocast(self, dtype: str) -> AbstractContextManager[None]:
        """While it is open, what can be computed in a shorter type is.

        Args:
            dtype: torch's name of the type, "bfloat16" or "float16".
        """
        return torch.autocast(self.device.type, getattr(torch, dtype))

    # ------------------------------------------------------------ copies

    def buffers(self, ctx: Context) -> keeping.Buffers:
        """What copies the buffers of model and losses, and puts them back."""
        return keeping.buffers_of(weights.modules_of(ctx))

    def moded(self, ctx: Context) -> list[torch.nn.Module]:
        """What has a train and an eval mode: the model as it is run, losses and metrics."""
        return keeping.moded(ctx)

    def train(self, ctx: Context) -> None:
        """Puts the model into train mode; a part of it that is in eval mode stays so."""
        model = self.unwrap(ctx.model)
        if model.training:
            ctx.model.training = True  # of what wraps it
            train_modes.train(model)
        else:
            ctx.model.train()

    def set_modes(self, modes: list[tuple[torch.nn.Module, bool]]) -> None:
        """Gives each module a mode of its own; parts come after what holds them."""
        train_modes.set_modes(modes)

    def warn_of_untrained(self, ctx: Context) -> None:
        """Warns, once in a run, of parameters that get gradients and that no optimizer changes."""
        weights.warn_of_untrained(ctx)

    def keep(self, ctx: Context) -> weights.Kept | None:
        """A copy of what trains, to go back to; None if a weight or buffer is not finite."""
        return keeping.keep(ctx)

    def go_back(self, ctx: Context, kept: weights.Kept) -> None:
        """Restores what `keep` gave."""
        keeping.go_back(ctx, kept)

    def lower_rates(self, ctx: Context, factor: float) -> None:
        """Multiplies all learning rates."""
        keeping.lower_rates(ctx, factor)

    def weights(self, ctx: Context) -> climbing.WeightCopies:
        """A copy of all weights and buffers, which can be put back."""
        return climbing.weights_of(ctx)

    def climb(self, optimizer: torch.optim.Optimizer, radius: float) -> None:
        """Moves an optimizer's parameters by a radius along their gradients, which are cleared."""
        climbing.climb(optimizer, radius)

    def first_not_finite(self, ctx: Context) -> str | None:
        """The name of a weight or buffer that is not finite.

        None if all are finite, or where no value can be read.
        """
        if self.device.type == "meta":
            return None
        return keeping.first_not_finite(*weights.modules_of(ctx))

    # ------------------------------------------------------------ random numbers

    def random_states(self, data: Any = None) -> seeding.States:
        """The states of all generators: the global ones, and those of a loader's own parts."""
        return {**seeding.states(self.device), "own": seeding.own_states(*seeding.owners_in(data))}

    def set_random_states(self, states: seeding.States, data: Any = None) -> None:
        """Restores what `random_states` gave."""
        seeding.set_states(states, self.device)
        seeding.set_own_states(states["own"], *seeding.owners_in(data))

    def run_states(self, ctx: Context) -> seeding.States:
        """The states of the global generators, as far as they are a run's; for a snapshot.

        Without a seed they are all that the run depends on. With one, they are the run's only while
        it has borrowed them.
        """
        held = self.chance(ctx)
        if held is None:
            return seeding.states(self.device)
        own, _ = held.read()
        return own or {}

    def set_run_states(self, ctx: Context, saved: seeding.States) -> None:
        """Restores what `run_states` returned."""
        held = self.chance(ctx)
        if held is None or held.read()[0] is not None:
            seeding.set_states(saved, self.device)

    def seed(self, ctx: Context, stream: tuple[Any, ...], number: int) -> None:
        """Seeds the global generators with a key, and makes other runs wait.

        Args:
            ctx: the run.
            stream: the beginning of the key, after the run's seed.
            number: the rest of it.

        Raises:
            ConfigError: there is no seed.
        """
        held = ctx.chance
        if held is None and (held := chance_of(ctx)) is None:
            raise ConfigError(
                "this lifecycle is seeded, but the run has no seed; give fit(..., seed=...)"
            )
        held.seed((ctx.seed, *stream, *self.key), number)

    def chance(self, ctx: Context) -> Chance | None:
        """The hold that a run has on the global generators; None without a seed."""
        return chance_of(ctx)

    def stream(self, seed: int | None, name: str) -> torch.Generator:
        """A separate generator on the CPU, seeded by its name and the run's seed.

        Seeded by torch if the run has no seed.
        """
        return torch.Generator().manual_seed(
            seeding.key(torch.initial_seed() if seed is None else seed, "stream", name)
        )

    def begin_keyed(self, data: Any, turn: int, start: int) -> bool:
        """Tells a loader that draws by key where its next iteration begins.

        False if it does not draw by key.
        """
        order = keyed.order_of(data)
        if isinstance(data, Combined) and data.is_keyed:
            data.begin(turn, start)
            return True
        if order is None:
            return False
        order.begin(turn, start)
        return True

    # ------------------------------------------------------------ losses and gradients

    def exact(self, loss: torch.Tensor) -> torch.Tensor:
        """A loss as it is summed up on the device: detached, in float64 if the device has it.

        Raises:
            ValueError: it is no single number.
        """
        if loss.numel() != 1:
            raise ValueError(f"a loss is one number, got shape {tuple(loss.shape)}")
        return loss.detach().to(torch.float32 if self.device.type == "mps" else torch.float64)

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        """Clears the gradients of an optimizer's parameters, as `optimizer.zero_grad()` does.

        Torch's own is not called but done: opening its range for a profiler takes longer than all
        the rest.
        """
        if getattr(optimizer.zero_grad, "__func__", None) is not _ZERO_GRAD:
            optimizer.zero_grad()
            return
        for parameter in parameters_of(optimizer):
            parameter.grad = None

    def versions(self, optimizer: torch.optim.Optimizer) -> list[tuple[int, int]]:
        """What tells whether an optimizer's parameters or gradients have changed meanwhile."""
        return [(one._version, id(one.grad)) for one in parameters_of(optimizer)]

    def gradients(self, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        """The gradients of an optimizer's parameters, those that have one."""
        return [one.grad for one in parameters_of(optimizer) if one.grad is not None]

    def grad_norm(self, optimizer: torch.optim.Optimizer) -> float:
        """The 2-norm of all gradients of an optimizer's parameters, as a number on the host."""
        gradients = self.gradients(optimizer)
        if gradients:
            return self.norm(gradients).item()
        return 0.0

    def norm(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """The 2-norm of all elements of some gradients, shape (); sparse ones have few."""
        elements = list(gradients)
        for i, gradient in enumerate(gradients):
            if gradient.is_sparse:
                elements[i] = gradient.coalesce().values()
        return torch.nn.utils.get_total_norm(elements)
