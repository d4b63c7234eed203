"""A fused update as a CUDA graph: recorded once, started as a whole, so that the host's time for it is that of one launch.

Theory of operation ------------------- What is recorded is the work on the device: the model, the
loss, its gradients, the step, and with `finite_check="late"` all that leaves a step out. It reads a batch
from buffers that stay where they are, into which each batch is copied, and leaves prediction and
loss in others. What the host does for a batch (counters, means, metrics) is not recorded; it is
done after each replay.

The first batches of a shape are trained on as ever, on a stream aside, as torch asks for: libraries
and optimizers set themselves up in them. Then the graph is recorded. Batches of another shape, such
as a short last one, are always trained on as ever. A learning rate that stays as it is is part of
what is recorded. Once one has changed, rates are read from the device, in float32, where they are
written when they change. When another setting of the optimizer has changed, or when the training is
opened again and a weight or a state of the optimizer lies elsewhere, the graph is recorded anew.
Torch's generators on the device are moved on by each replay, those of modules as well: dropout
draws what comes next, and after the same seed the same.

What the graph cannot see: anything that the model decides by Python values other than the shape of
its input, such as a counter of its own. Prediction and gradients lie in the graph's memory: the
next batch overwrites them.

The parts were tested on the CPU, by a recording that calls again what was recorded; with CUDA
itself it is untested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from attrs import Factory, define, field
from torch.utils import _pytree as pytree

from statetrain.compute.compiling import CompiledUpdate, beyond
from statetrain.compute.masking import masks
from statetrain.contracts.composing import parts_of
from statetrain.errors import ConfigError
from statetrain.standard import actions
from statetrain.standard.fusing import Fused, account

if TYPE_CHECKING:
    from statetrain.context.context import Context

Replay = Callable[[], None]

WARM_UP = 3  # batches of a shape before it is recorded, as many as torch's own examples make
# That are counted while none has been recorded; of data whose batches all differ there is no end
_SHAPES = 1000


def graph_for(
    device: torch.device,
    fused: Fused | None,
    optimizers: Mapping[str, Any],
    backward: Any = None,
    options: Mapping[str, Any] | None = None,
    whole: CompiledUpdate | None = None,
) -> CudaGraph | CompiledUpdate | None:
    """What does the work of a fused state on a device: a graph on CUDA, elsewhere what is compiled; None if neither is there.

    Args:
        device: where the run computes.
        fused: the action of the fused state; None if there is none.
        optimizers: by name.
        backward: what computes the gradients in place of torch; None is torch.
        options: with which the model is compiled.
        whole: the update compiled, if it is; then that is recorded.

    Raises:
        ConfigError: what is fused cannot be recorded.
    """
    if fused is None or device.type != "cuda":
        return whole
    if (mode := (options or {}).get("mode")) in ("reduce-overhead", "max-autotune"):
        raise ConfigError(
            "fused=True records the update as a CUDA graph, and so does compile={'mode':"
            f" {mode!r}}}; leave one out, or 'max-autotune-no-cudagraphs'"
        )
    if whole is None:
        check(fused, optimizers, backward)
    return CudaGraph(device, whole=whole)


def check(fused: Fused, optimizers: Mapping[str, Any], backward: Any = None) -> None:
    """Raises a `ConfigError` if a fused state does anything that a graph cannot record."""
    own = beyond(fused)
    if own or len(fused.actions) != 4 or backward is not None:
        what = (
            f"{getattr(own[0], '__name__', own[0])!r}"
            if own
            else "a backward of the accelerator's own"
        )
        raise ConfigError(
            f"fused=True records the update as a CUDA graph, and {what} may do what cannot be"
            " recorded; leave fused out"
        )
    if len(optimizers) > 1:
        raise ConfigError(
            "fused=True records the update as a CUDA graph, of one optimizer; there are"
            f" {len(optimizers)}, so leave fused out"
        )
    for name, optimizer in optimizers.items():
        kind = type(optimizer).__name__
        sgd = isinstance(optimizer, torch.optim.SGD)
        key = "fused" if sgd else "capturable"
        if not all(group.get(key) for group in optimizer.param_groups):
            raise ConfigError(
                f"fused=True records the step as a CUDA graph, and optimizer {name!r} would wait"
                f" for the host in it; make it with {key}=True: {kind}(..., {key}=True)"
            )
        if actions.update_finite in parts_of(fused.actions[3]) and not masks(optimizer):
            raise ConfigError(
                "with finite_check='late', a step that is recorded as a CUDA graph is left out on the"
                f" device, which optimizer {name!r} cannot; make it with fused=True: {kind}(...,"
                " capturable=True, fused=True)"
            )


@define(eq=False)
class _Recorded:
    """What was recorded, and all that has to be the same for it to be replayed."""

    shape: Any
    settings: Any
    statics: list[torch.Tensor]
    # If they change: a group, its rate on the device, what that was set to last
    rates: list[tuple[dict[str, Any], torch.Tensor, Any]]
    replay: Replay | None = None
    pred: Any = None
    loss: Any = None
    # With a mask, the loss as it counts, and whether it does
    counted: tuple[Any, Any] | None = None
    number: Any = None  # with a mask, of the step that was made last, on the device
    at: int = -1  # the same as the host knows it
    gradients: list[tuple[Any, Any]] = Factory(list)


@define(eq=False)
class CudaGraph:
    """Replays a fused state.

    Args:
        device: a CUDA device.
        record: runs a function once so that what it does on the device is recorded, and gives what
            replays it. None records a CUDA graph.
        warm_up: batches of a shape that are trained on before it is recorded.
        whole: the update compiled; None: its parts are called one after the other.
    """

    device: torch.device
    record: (
        Callable[[Callable[[], None], torch.device, Iterable[torch.Generator]], Replay] | None
    ) = None
    warm_up: int = WARM_UP
    whole: CompiledUpdate | None = None
    recordings: int = field(default=0, init=False)  # made so far
    replays: int = field(default=0, init=False)  # batches that were replayed
    _seen: Counter[Any] = field(factory=Counter, init=False)
    _rates: list[Any] | None = field(default=None, init=False)  # those of the batch before
    _rates_change: bool = field(default=False, init=False)  # whether they ever have
    _recorded: _Recorded | None = field(default=None, init=False)
    _layout: Any = field(default=None, init=False)
    _lie: Any = field(default=None, init=False)
    _stream: Any = field(default=None, init=False)

    def __call__(self, ctx: Context, fused: Fused) -> None:
        """Trains on the batch of a context."""
        if (
            ctx.layout is not self._layout
        ):  # the training was opened (again); weights and states may have been put elsewhere
            self._layout, lie = ctx.layout, _addresses(ctx)
            if lie != self._lie:
                self._recorded = None
        leaves, shape = _leaves(ctx)
        if len(self._seen) == _SHAPES:
            self._seen.clear()
        self._seen[shape] += 1
        rates = [
            group["lr"]
            for group in ctx.opt.param_groups
            if not isinstance(group["lr"], torch.Tensor)
        ]
        if self._rates not in (None, rates) and not self._rates_change:
            self._rates_change, self._recorded = True, None
        self._rates = rates
        if self._recorded is not None and self._recorded.settings != _settings(ctx.opt):
            self._recorded = None
        unready = self.whole is not None and not self.whole.ready
        if (
            self._seen[shape] <= self.warm_up
            or unready
            or (self._recorded is not None and self._recorded.shape != shape)
        ):
            self._aside(ctx, fused)
            return
        if self._recorded is None:
            self._recorded = self._record(ctx, fused, leaves, shape)
        self._replay(ctx, fused, self._recorded, leaves)

    def _aside(self, ctx: Context, fused: Fused) -> None:
        """Trains as ever, on a stream aside."""
        run = fused.run if self.whole is None else partial(self.whole, fused=fused)
        if self.record is not None:
            run(ctx)
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
            # Torch would warn that these steps are not recorded
            ctx.opt._warned_capturable_if_run_uncaptured = True
        own = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(own)
        with torch.cuda.stream(self._stream):
            run(ctx)
        own.wait_stream(self._stream)

    # ------------------------------------------------------------ recording

    def _record(self, ctx: Context, fused: Fused, leaves: list[Any], shape: Any) -> _Recorded:
        """Records the update; nothing is computed by it."""
        statics = [leaf.detach().clone() for leaf in _tensors(leaves)]
        numbers = (
            [group for group in ctx.opt.param_groups if not isinstance(group["lr"], torch.Tensor)]
            if self._rates_change
            else []
        )
        rates = [
            (group, torch.tensor(float(group["lr"]), device=self.device), group["lr"])
            for group in numbers
        ]
        recorded = _Recorded(shape, _settings(ctx.opt), statics, rates)
        given = (ctx.batch, ctx.input, ctx.target)
        fixed = _put(given, leaves, statics)
        if ctx.mask is not None:
            recorded.number = (
                torch.zeros((), dtype=ctx.mask.found.dtype, device=self.device)
                if self.whole is None
                else self.whole.number
            )

        def update() -> None:
            on_host, counters = ctx.on_host, (ctx.step, ctx.pending)
            own = (ctx.batch, ctx.input, ctx.target)
            (ctx.batch, ctx.input, ctx.target), ctx.on_host = fixed, False
            for group, rate, _ in rates:
                group["lr"] = rate
            try:
                if self.whole is not None and self.whole.compute(ctx):
                    recorded.counted = self.whole.counted
                else:
                    self._compute(ctx, fused, recorded)
                recorded.pred, recorded.loss = _detached(ctx.pred), ctx.loss_grad.detach()
                recorded.gradients = [
                    (p, p.grad)
                    for group in ctx.opt.param_groups
                    for p in group["params"]
                    if p.grad is not None
                ]
            finally:
                for group, _, value in rates:
                    group["lr"] = value
                (ctx.batch, ctx.input, ctx.target), ctx.on_host = own, on_host
                ctx.step, ctx.pending = counters
                ctx.pred = ctx.loss_grad = None  # type: ignore[assignment]  # there is none now

        generators = [
            value
            for module in ctx.model.modules()
            for value in vars(module).values()
            if isinstance(value, torch.Generator)
        ]
        recorded.replay = (self.record or record_graph)(
            update, self.device, [one for one in generators if one.device.type == "cuda"]
        )
        self.recordings += 1
        self._lie = _addresses(ctx)
        return recorded

    def _compute(self, ctx: Context, fused: Fused, recorded: _Recorded) -> None:
        """The parts of the update, without what the host counts."""
        pred, loss, backward, _ = fused.actions
        # The run's own copies are others in each epoch
        buffers = ctx.accelerator.buffers(ctx) if ctx.held is not None else None
        if buffers is not None:
            buffers.take()
        pred(ctx)
        loss(ctx)
        if ctx.mask is not None:
            recorded.counted = ctx.mask.see(ctx.loss_grad.detach())
        backward(ctx)
        if ctx.mask is not None:
            recorded.number.add_(1)
            ctx.mask.step(ctx.opt, recorded.number, buffers)
        else:
            ctx.opt.step()

    def _replay(self, ctx: Context, fused: Fused, recorded: _Recorded, leaves: list[Any]) -> None:
        for static, leaf in zip(recorded.statics, _tensors(leaves), strict=True):
            static.copy_(leaf, non_blocking=True)
        for i, (group, rate, last) in enumerate(recorded.rates):
            if group["lr"] != last:
                rate.fill_(group["lr"])
                recorded.rates[i] = (group, rate, group["lr"])
        if (
            recorded.number is not None and recorded.at != ctx.step
        ):  # as a rule the graph has counted on by itself
            recorded.number.fill_(ctx.step)
        recorded.at = ctx.step + 1
        assert recorded.replay is not None
        recorded.replay()
        self.replays += 1
        for parameter, gradient in recorded.gradients:
            parameter.grad = gradient
        ctx.pred, ctx.loss_grad = recorded.pred, recorded.loss.clone()
        account(ctx, fused, recorded.counted)


def record_graph(
    function: Callable[[], None], device: torch.device, generators: Iterable[torch.Generator]
) -> Replay:
    """Records a function as a CUDA graph; gives what replays it. Untested on a device."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    # Torch's own stream for this belongs to the device that was current when the first graph of the
    # process was recorded.
    stream = torch.cuda.Stream(device)
    try:
        # A loader's thread that pins memory may go on meanwhile.
        with (
            torch.cuda.device(device),
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            function()
    except Exception as error:
        error.add_note(
            "statetrain: while the update was recorded as a CUDA graph; whatever the model, the"
            " loss or the optimizer does in it must not wait for the host (no .item(), no indexing"
            " with masks, no copies to or from the host). Without it: leave fused=True out"
        )
        raise
    return graph.replay


# ---------------------------------------------------------------- what a batch is made of


def _leaves(ctx: Context) -> tuple[list[Any], Any]:
    """All that is in a batch, and what has to be the same for another one to fit into its place."""
    leaves: list[Any] = []
    trees: list[str] = []
    for part in (ctx.batch, ctx.input, ctx.target):
        if isinstance(part, torch.Tensor):
            leaves.append(part)
            trees.append("")
        else:
            found, tree = pytree.tree_flatten(part)
            leaves += found
            trees.append(str(tree))
    first: dict[int, int] = {}
    like = tuple(
        (
            (leaf.shape, leaf.dtype, leaf.device, first.setdefault(id(leaf), i))
            if isinstance(leaf, torch.Tensor)
            else _fixed(leaf)
        )
        for i, leaf in enumerate(leaves)
    )
    return leaves, (*trees, like)


def _fixed(leaf: Any) -> Any:
    """What is no tensor has to be the same in each batch, and be known to be."""
    if not isinstance(leaf, str | int | float | bool | None):
        raise ConfigError(
            "fused=True records the update as a CUDA graph, and a batch has a"
            f" {type(leaf).__name__} in it, which cannot be copied into the graph's buffers; let"
            " the data yield tensors in tuples, lists and dicts, or leave fused out"
        )
    return leaf


def _tensors(leaves: list[Any]) -> list[torch.Tensor]:
    """The tensors among them, each once."""
    return list({id(leaf): leaf for leaf in leaves if isinstance(leaf, torch.Tensor)}.values())


def _put(thing: Any, leaves: list[Any], statics: list[torch.Tensor]) -> Any:
    """The same structure with other tensors, where one was in two places, in both."""
    places = {id(leaf): static for leaf, static in zip(_tensors(leaves), statics, strict=True)}
    return pytree.tree_map(lambda leaf: places.get(id(leaf), leaf), thing)


def _detached(thing: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, thing
    )


def _settings(optimizer: Any) -> Any:
    """The settings of an optimizer that are part of what is recorded: all but the learning rates."""
    return [
        {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")}
        for group in optimizer.param_groups
    ]


def _addresses(ctx: Context) -> tuple[int, ...]:
    """Where weights, buffers and the optimizer's states lie."""
    states = [
        value
        for state in ctx.opt.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    return tuple(
        tensor.data_ptr() for tensor in (*ctx.model.parameters(), *ctx.model.buffers(), *states)
    )
