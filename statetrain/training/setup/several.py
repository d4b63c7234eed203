"""Several processes: what each stage of setting up a run does for them."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch
from attrs import frozen

from statetrain.callback import Callback, name_of, unwrapped
from statetrain.checkpoints.snapshot import describe_lifecycle
from statetrain.checkpoints.tallies import placed
from statetrain.compute.keyed import Share, keyed, order_of
from statetrain.context.context import Context
from statetrain.contracts.declaring import field_of
from statetrain.contracts.listening import paths_in
from statetrain.data.combining import Combined
from statetrain.data.joining import join
from statetrain.data.sizes import length
from statetrain.errors import ConfigError
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.losses.losses import LossMean
from statetrain.losses.metrics import MeanOf
from statetrain.losses.reducing import (
    count_alone,
    is_reduced_by_itself,
    merges,
    object_of,
    torchmetrics_in,
)
from statetrain.losses.tally import Tally
from statetrain.machine.agreeing import Agreement, Clock, News
from statetrain.machine.machine import Machine
from statetrain.ranks.group import Processes
from statetrain.standard.several import Sharing, gradients_of, several
from statetrain.trace import Tracing
from statetrain.training.setup.data import Data
from statetrain.training.setup.objective import Objective
from statetrain.training.setup.ranks import Ranks

log = logging.getLogger("statetrain")


@frozen(eq=False)
class SeveralRanks(Ranks):
    """The processes of a run, of which this is one.

    Args:
        sharing: what the accelerator shares between them.
    """

    sharing: Sharing

    @property
    def group(self) -> Processes:
        """The processes."""
        group: Processes = self.sharing.group
        return group

    def seed(self, seed: int | None, saved: Any) -> int:
        """The seed of a run, the same on all ranks.

        Without one, several ranks take that of the run that they resume, else rank 0's: they have
        to draw one order of the samples.

        Args:
            seed: as `fit` takes it.
            saved: the snapshot that the run resumes from; None without.

        Raises:
            ConfigError: the ranks were given different ones.
        """
        seeds = self.group.gather("compare the seeds", seed)
        if any(other != seeds[0] for other in seeds):
            raise ConfigError(f"the ranks were given different seeds: {seeds}; give all the same")
        if seed is not None:
            return seed
        if saved is not None and saved["seed"] is not None:
            return int(saved["seed"])
        drawn = self.group.gather("draw a seed", torch.initial_seed() % 2**63)[0]
        if self.group.rank == 0:
            log.warning(
                "several ranks need one order of the samples, so this run has the seed %s; give"
                " seed= to choose it",
                drawn,
            )
        return int(drawn)

    def listening(self, callbacks: tuple[Callback, ...]) -> tuple[Callback, ...]:
        """The callbacks that listen on this rank.

        Raises:
            ConfigError: one on rank 0 alone would look at weights that all ranks put together.
        """
        if self.sharing.shards:
            refuse_alone_with_parts(callbacks)
        return heard_on(self.group, callbacks)

    def divide(self, data: Data) -> Data:
        """The data, of whose batches this rank draws its part."""
        return attrs.evolve(data, divided=divide(self.group, data))

    def share(self, life: Lifecycle, objective: Objective, divided: bool) -> Lifecycle:
        """The table that this rank walks.

        Args:
            life: the table of one process.
            objective: whose metrics have to be such that ranks can reduce them.
            divided: whether each rank has its part of the training data.

        Raises:
            ConfigError: something in them cannot be shared.
        """
        refuse_unsummable(objective.tallies)
        return several(life, divided=divided)

    def agreement(self, life: Lifecycle) -> Agreement:
        """The meetings of the table."""
        return Agreement(life, self.group, gradients_of(life))

    def begin(self, ctx: Context, machine: Machine) -> Context:
        """The context, which has been compared with those of the other ranks.

        Raises:
            ConfigError: the ranks were given different arguments.
        """
        if machine.agreement is not None:
            start_together(ctx, self.group, machine.agreement)
        return ctx


def heard_on(ranks: Processes, callbacks: tuple[Callback, ...]) -> tuple[Callback, ...]:
    """The callbacks that listen on this rank: those that write outside are on rank 0 alone."""
    if ranks.rank == 0:
        return callbacks
    found: list[Callback] = []
    for one in callbacks:
        inner = unwrapped(one) if isinstance(one, Callback) else one
        if isinstance(inner, Tracing) and inner.every_rank:
            inner.name_for(ranks.rank)
            found.append(one)
        elif isinstance(inner, Tracing) and inner.file is not None:
            found.append(Tracing())  # each rank knows its way, and one file has it
        elif getattr(inner, "ranks", "all") == "all":
            found.append(one)
    return tuple(found)


_WEIGHTS = {"model", "grads", "opt", "optimizers", "loss_fns"}
"""What each rank has parts of where weights are sharded."""


def refuse_alone_with_parts(callbacks: Iterable[Callback]) -> None:
    """Raises a `ConfigError` for a callback on rank 0 alone that reads weights or gradients.

    Of these each rank has a part, and to put them together all ranks would have to come.
    """
    for one in map(unwrapped, callbacks):
        if getattr(one, "ranks", "all") == "all":
            continue
        if read := sorted({field_of(path) for path in paths_in(one.reads)} & _WEIGHTS):
            raise ConfigError(
                f"{name_of(one)} listens on rank 0 alone and reads {read[0]!r}, of which each rank"
                " has a part with st.FSDP. Leave it out: Checkpoint saves the parts, and"
                " st.save_weights(run, path), called on all ranks, the whole"
            )


def divide(ranks: Processes, data: Data) -> bool:
    """Gives this rank its part of each batch; whether the training data can be divided."""
    for loader in (data.train, data.valid, *data.others.values()):
        divide_loader(ranks, loader)
    divided = True
    for name, loader in (("train", data.train), ("valid", data.valid), *data.others.items()):
        if loader is None or order_of(loader) is not None:
            continue
        if name == "train" or length(loader) is None:  # lengths are compared
            divided = False
        if ranks.rank == 0:
            log.warning(
                "the %s data is a %s, which cannot be divided: each rank goes through its own",
                name,
                type(loader).__name__,
            )
    return divided


def divide_loader(ranks: Processes, loader: Any) -> None:
    """Gives this rank its part of each batch of a loader that draws by key."""
    if isinstance(loader, Combined):
        raise ConfigError("what combine() makes is for one process; ranks cannot divide it")
    order = order_of(loader)
    if order is None:
        return
    if not order.batched:
        raise ConfigError(
            "a DataLoader with batch_size=None cannot be divided between ranks: its dataset yields"
            " whole batches. Let it yield samples, and give the DataLoader a batch_size"
        )
    order.share = Share(ranks.rank, ranks.size)


def machine_on_ranks(
    ctx: Context,
    ranks: Processes,
    life: Lifecycle,
    callbacks: tuple[Callback, ...],
    debug: bool,
) -> Machine:
    """The machine that evaluates or predicts on several ranks, where its data can be divided.

    Data that cannot be is read in full by each rank, with the same result; so is data for a
    metric that ranks cannot reduce.

    Args:
        ctx: its context.
        ranks: the processes.
        life, callbacks, debug: of the machine.
    """
    loader, why = keyed(ctx.valid_data, 0, "aside")
    heard = heard_on(ranks, callbacks)
    if why or any(find_unsummable(ctx.tallies)):
        for tally in ctx.tallies.values():
            count_alone(tally.own.values())
        return Machine(life, heard, debug=debug)
    divide_loader(ranks, loader)
    ctx.valid_data = loader
    table = several(life)
    agreement = Agreement(table, ranks)
    read = ctx.clock
    ctx.news = _watched(News(agreement, Clock(read, read())), ranks)
    ctx.clock = ctx.news.clock
    return Machine(table, heard, debug=debug, agreement=agreement)


def joined_predictions(ctx: Context, parts: list[Any]) -> list[Any]:
    """The predictions of all ranks, batch by batch.

    Args:
        ctx: of the prediction.
        parts: this rank's, by batch; None where it had no sample.
    """
    assert ctx.news is not None
    host = [None if part is None else placed(part, torch.device("cpu")) for part in parts]
    told = ctx.news.group.gather("join the predictions", host)
    batches = []
    for batch in zip(*told, strict=True):
        there = [part for part in batch if part is not None]
        batches.append(placed(join(there), ctx.device))
    return batches


def refuse_unsummable(tallies: Mapping[str, Tally]) -> None:
    """Raises a `ConfigError` for a metric that cannot be reduced over ranks."""
    for name, own in find_unsummable(tallies):
        raise ConfigError(
            f"metric {name!r} is a {type(own).__name__}, which several ranks cannot reduce; give it"
            " merge_state(others), which takes in what others like it have gathered, or give a"
            " function of prediction and target, which is averaged, or a metric of torchmetrics,"
            " without sync_on_compute=False"
        )


def find_unsummable(tallies: Mapping[str, Tally]) -> Iterator[tuple[str, Any]]:
    """The metrics that cannot be reduced over ranks, by name."""
    for tally in tallies.values():
        for name, metric in tally.metrics.items():
            own = object_of(metric)
            if not (isinstance(own, MeanOf | LossMean) or merges(own) or _is_synced(own)):
                yield name, own


def _is_synced(metric: Any) -> bool:
    """Whether a metric is torchmetrics', and was not told to leave the other ranks out."""
    parts = torchmetrics_in(metric).values()
    return is_reduced_by_itself(metric) and all(part.sync_on_compute for part in parts)


def start_together(ctx: Context, ranks: Processes, agreement: Agreement) -> None:
    """Makes a context that of one of several ranks, and compares it with the others'.

    Raises:
        ConfigError: the ranks were given different arguments.
    """
    _compare(ctx, ranks, agreement.lifecycle)
    base = ctx.clock()
    read = ctx.clock
    news = _watched(News(agreement, Clock(lambda: read() - base)), ranks)
    ctx.news, ctx.clock = news, news.clock
    assert ctx.accelerator.sharing is not None
    ctx.accelerator.sharing.attach(ctx, agreement, news)


def _watched(news: News, ranks: Processes) -> News:
    """News whose failures the other ranks hear of."""
    news.begin, news.fail = ranks.watch.begin, ranks.watch.fail
    return news


def _divided_length(data: Any) -> int | None:
    """The batches of data that ranks divide; None where each has its own."""
    if order_of(data) is None:
        return None
    return length(data)


def _compare(ctx: Context, ranks: Processes, life: Lifecycle) -> None:
    described = describe_lifecycle(life)
    model = ctx.accelerator.unwrap(ctx.model)
    own: dict[str, list[str]] = {
        "lifecycle": [*described["states"], *described["arrows"]],
        "model": [f"{name} {tuple(p.shape)} {p.dtype}" for name, p in model.named_parameters()],
        "optimizer": [f"{name} {given}" for name, given in ctx.opt_given.items()],
        "epochs": [f"{ctx.min_epochs} to {ctx.max_epochs}"],
        "torch": [str(torch.__version__), platform.python_version()],
        "data": [
            f"{name}: {length(data)} batches"
            for name, data in (("valid", ctx.valid_data), *ctx.evaluations.items())
            if data is not None
        ],
        "order": [f"{_divided_length(ctx.train_data)} batches"],
    }
    found = ranks.gather("compare what was given", own)
    for rank, other in enumerate(found):
        for what, lines in found[0].items():
            if other[what] != lines:
                there, here = _first_beside(other[what], lines), _first_beside(lines, other[what])
                raise ConfigError(
                    f"rank {rank} was given another {what}: {there!r} there, {here!r} on rank 0."
                    " All ranks run the same script with the same arguments"
                )


def _first_beside(lines: Iterable[str], others: Iterable[str]) -> str:
    """The first line that is not among others."""
    return next((line for line in lines if line not in others), "nothing")
