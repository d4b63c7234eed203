"""A rank's part of each batch: what replicas and shards of a model have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from attrs import define, field

from statetrain.compute.keyed import order_of
from statetrain.compute.weights import modules_of
from statetrain.data.iterating import data_of
from statetrain.data.structure import tensors_in
from statetrain.errors import ConfigError, DataError, MachineError
from statetrain.losses.reducing import has_objects
from statetrain.machine.agreeing import Agreement, News
from statetrain.ranks.group import Processes
from statetrain.standard.parameters import parameters_of
from statetrain.standard.several import BatchPart

if TYPE_CHECKING:
    from statetrain.context.context import Context


@define(eq=False)
class BatchSharing:
    """What the rank of an accelerator takes of each batch; see `Sharing` of the standard table.

    Args:
        group: the processes.
        reduce: says whether the next backward pass reduces the gradients.
        most: guards that ranks can agree on in a batch.
        shards: whether each rank holds a part of the weights.
    """

    group: Processes
    reduce: Callable[[bool], None] = field(default=lambda on: None)
    most: int = 60
    shards: bool = False
    calls_backward: bool = True
    """Whether the table computes the gradients; else a function of the user's does."""
    scale: float = field(default=1.0, init=False)
    """What this rank's mean is multiplied by, so that it counts by its share of the batch."""
    ctx: Any = field(default=None, init=False)
    news: News | None = field(default=None, init=False)
    _last: Any = field(default=None, init=False)
    _compared: bool = field(default=False, init=False)
    _first: dict[str, str | None] = field(factory=dict, init=False)
    _beside: list[torch.nn.Parameter] = field(factory=list, init=False)

    def attach(self, ctx: Context, agreement: Agreement, news: News) -> None:
        """Says what this rank will have to tell.

        Raises:
            ConfigError: there are more questions than can be agreed on at once.
        """
        for name in agreement.gradients:
            if len(agreement.rows.get(name, ())) > self.most:
                raise ConfigError(f"ranks agree on at most {self.most} guards in a batch")
        self.ctx, self.news, self._compared = ctx, news, False
        self._beside = _parameters_beside(ctx)
        if self._beside and (self.shards or not self.calls_backward):
            what = "st.FSDP" if self.shards else "compute="
            raise ConfigError(
                "parameters outside of the model, such as those of a loss, cannot be trained with"
                f" {what} on several ranks; make them a part of the model"
            )
        with torch.no_grad():
            for own in self._beside:
                dist.broadcast(own, 0)

    @property
    def key(self) -> tuple[Any, ...]:
        """What is added to the keys of random numbers: each rank draws its own, rank 0 as alone."""
        return ("rank", self.group.rank) if self.group.rank else ()

    # ------------------------------------------------------------ a batch

    def part(
        self,
        ctx: Context,
        set: str,  # noqa: A002  # the field's word
        number: int,
    ) -> BatchPart:
        """How much of the present batch is this rank's; see `Sharing`."""
        order = order_of(data_of(ctx, set))
        if order is None or order.share is None:
            tally = ctx.tallies.get(set)
            if set != "train" and number == 1 and tally is not None and has_objects(tally):
                self._first[set] = _mark(ctx.batch)
            return BatchPart(ctx.batch_size, ctx.batch_size * self.group.size)
        size, total = order.share.size_of(number - 1)
        if ctx.news is not None and ctx.news.skips is not None:
            size = 0
        return BatchPart(size, total)

    def open_part(self, part: BatchPart, reduces: bool) -> None:
        """Weighs this rank's mean by its share of the batch."""
        self.scale = 1.0
        if part.size * self.group.size != part.total:
            self.scale = part.size * self.group.size / part.total
        self.reduce(reduces)

    def weigh(self, loss: torch.Tensor) -> torch.Tensor:
        """A loss such that the mean over ranks is that of the whole batch."""
        if self.scale == 1.0 or not self.calls_backward:
            return loss
        with torch.enable_grad():
            return loss * self.scale

    def weigh_outputs(self, outputs: Any) -> Any:
        """What the model gives, such that the gradients of any loss of it are weighed.

        A function of the user's may call `backward` by itself, where no loss can be weighed.
        """
        if self.scale == 1.0 or self.calls_backward:
            return outputs
        return torch.utils._pytree.tree_map(self._weigh_output, outputs)

    def _weigh_output(self, leaf: Any) -> Any:
        if not (isinstance(leaf, torch.Tensor) and leaf.requires_grad):
            return leaf
        weighed, scale = leaf.view_as(leaf), self.scale
        weighed.register_hook(lambda grad: grad * scale)
        return weighed

    def reduce_beside(self) -> None:
        """Averages the gradients of parameters that are not the model's, as those of a loss."""
        self.average(self._beside)

    def average(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Averages gradients over all ranks; one that no rank has stays None."""
        alike: dict[Any, list[torch.nn.Parameter]] = {}
        for own in parameters:
            alike.setdefault((own.dtype, own.device), []).append(own)
        for some in alike.values():
            self._average_alike(some)

    def _average_alike(self, parameters: list[torch.nn.Parameter]) -> None:
        """The same of parameters of one type: one message, which also says who has which."""
        first = parameters[0]
        there = first.new_tensor([float(own.grad is not None) for own in parameters])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([there, *(grad.detach().reshape(-1) for grad in grads)])
        dist.all_reduce(flat)
        counts, flat = flat[: len(parameters)].tolist(), flat[len(parameters) :]
        values = flat.div_(self.group.size).split([own.numel() for own in parameters])
        for own, count, value in zip(parameters, counts, values, strict=True):
            if count:
                own.grad = value.view_as(own)

    def remember(self, batch: Any) -> None:
        """Keeps a batch, in case the next one is left out."""
        self._last = batch
        if not self._compared and self.ctx is not None:
            self._compared = True
            self._compare(batch)

    def _compare(self, batch: Any) -> None:
        """Ranks that have data of their own must not all have the same."""
        order = order_of(self.ctx.train_data)
        if order is not None and order.share is not None:
            return
        marks = self.group.gather("compare the first batches", _mark(batch))
        _refuse_twice(marks, "batch, so both would train on the same data")

    def first_batches(self) -> dict[str, Any]:
        """Marks of the first batches of an evaluation, by set; see `Sharing`.

        Means of the same data are right. Sums that metric objects keep are not, so without such
        objects there are no marks.
        """
        first, self._first = self._first, {}
        return first

    def refuse_same(self, ranks: list[dict[str, Any]]) -> None:
        """Ranks whose evaluations add up must not have the same data; see `Sharing`."""
        for name in ranks[0]:
            marks = [first.get(name) for first in ranks]
            _refuse_twice(marks, f"batch of the {name} data, which metrics would count twice")

    def stand_in(self, event: BaseException) -> Any:
        """The batch before; see `Sharing`."""
        if self._last is None:
            raise MachineError(
                f"{type(event).__name__} ({event}) was raised by the data for this rank's first"
                " batch of a run. With several ranks that one cannot be left out: the others wait"
                " for its gradients, and there is no batch before it that could stand in"
            ) from event
        return self._last

    def share_buffers(self, ctx: Context) -> None:
        """Makes the model's buffers those of rank 0."""
        for buffer in ctx.accelerator.unwrap(ctx.model).buffers():
            dist.broadcast(buffer, 0)

    def stack(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gathers tensors on rank 0, in the memory of the host; zeros where a rank has none."""
        own = {name: (one.shape, one.dtype) for name, one in tensors.items()}
        known: dict[str, Any] = {}
        for kinds in self.group.gather("gather the gradients", own):
            known |= kinds
        found = {}
        for name, (shape, dtype) in known.items():
            held = tensors.get(name, torch.zeros(shape, dtype=dtype)).detach().cpu().contiguous()
            rows = self._to_first(held)
            if rows:
                found[name] = torch.stack(rows)
        return found

    def _to_first(self, held: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, on rank 0; none on others."""
        rows = []
        if self.group.rank == 0:
            rows = [torch.empty_like(held) for _ in range(self.group.size)]
        with self.group.waiting("gather the gradients"):
            dist.gather(held, rows or None, group=self.group.meetings, group_dst=0)
        return rows

    def unstack(self, rows: torch.Tensor) -> torch.Tensor:
        """This rank's row of a stacked tensor; the mean, if it is of another number of ranks."""
        if len(rows) == self.group.size and not self.shards:
            return rows[self.group.rank]
        return rows.mean(0)


def refuse_untrainable(model: torch.nn.Module) -> None:
    """Raises a `ConfigError` for a model of which nothing is trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("the model has no parameter that requires a gradient")


def _parameters_beside(ctx: Context) -> list[torch.nn.Parameter]:
    """The parameters that are trained and not the model's: of losses, or of optimizers alone."""
    model = {id(own) for own in ctx.accelerator.unwrap(ctx.model).parameters()}
    found = [own for loss in modules_of(ctx)[1:] for own in loss.parameters()]
    for optimizer in ctx.optimizers.values():
        found += parameters_of(optimizer)
    beside = {id(own): own for own in found if own.requires_grad and id(own) not in model}
    return list(beside.values())


def _refuse_twice(marks: list[str | None], what: str) -> None:
    """Raises a `DataError` if two ranks have one mark."""
    for rank, mark in enumerate(marks):
        if mark is not None and mark in marks[:rank]:
            raise DataError(
                f"ranks {marks.index(mark)} and {rank} have the same first {what}. Give data that"
                " can be divided (a Dataset, tensors, or a DataLoader over a map-style dataset), or"
                " let each rank iterate over its own"
            )


def _mark(batch: Any) -> str | None:
    """What tells a batch from others; None where that cannot be said."""
    tensors = list(tensors_in(batch))
    if not tensors:
        return None
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
