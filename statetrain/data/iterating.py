"""Iterating over the data of a run, and resuming an iteration where it was.

Iteration begins when the first batch is requested, not before: what a loader draws at its beginning
(the seed of its workers, the order of its samples) then comes from one place in the stream of
random numbers, whatever hooks draw in between and however many workers there are. The generators'
states at that place are kept. To resume, they are restored and the batches that were drawn already
are drawn again and skipped; a loader with a `state_dict` gets its state back instead, and one that
draws by key gets the position.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import define

from statetrain.data.sizes import length
from statetrain.data.workers import iterate
from statetrain.errors import DataError
from statetrain.events import SkipBatch

if TYPE_CHECKING:
    from statetrain.context.context import Context

END = object()  # the default of `next(iterator, END)`: the data is exhausted


@define(eq=False)
class AfterError(Iterator[Any]):
    """An iteration that raised an error, and is advanced again.

    A generator cannot continue after an error: it says that it has ended. Taken for the end of the
    data, that would lose what was to come.

    Args:
        data: the iteration.
        error: what it raised last; None once it has gone on.
    """

    data: Iterator[Any]
    error: Exception | None

    def __next__(self) -> Any:
        batch = next(self.data, END)
        error, self.error = self.error, None
        if batch is not END:
            return batch
        if error is None:
            raise StopIteration
        raise DataError(
            f"the data raised {type(error).__name__} and says that it has ended, as a generator"
            " does after an error; to try again, resume the data where it was:"
            " retrying(lifecycle, errors=...), or let the dataset raise SkipBatch"
        ) from error


def note_error(iterator: Iterator[Any], error: Exception) -> Iterator[Any]:
    """The same iteration, which must not end right after an error that it raised."""
    inner = iterator
    if isinstance(iterator, AfterError):
        inner = iterator.data
    return AfterError(inner, error)


@define(eq=False)
class LeftOut(Iterator[Any]):
    """In place of an iteration of which the rest is left out."""

    def __next__(self) -> Any:
        raise StopIteration


LEFT_OUT = LeftOut()


@define(eq=False)
class Unstarted(Iterator[Any]):
    """An iteration that begins with its first batch.

    Args:
        ctx: the context.
        set: "train", "valid", or an evaluation's name.
    """

    ctx: Context
    set: str

    def __next__(self) -> Any:
        iterator = _install(self.ctx, self.set, _begun(self.ctx, self.set))
        return next(iterator)


def data_of(ctx: Context, set: str) -> Any:  # noqa: A002  # the field's own word
    """The data of a set."""
    if set == "train":
        return ctx.train_data
    if set == "valid":
        return ctx.valid_data
    return ctx.evaluations[set]


def sets_of(ctx: Context) -> tuple[str, ...]:
    """The names of all sets: train, valid, and the evaluations'."""
    return ("train", "valid", *ctx.evaluations)


def take_up(ctx: Context, set: str, drawn: int) -> None:  # noqa: A002  # as above
    """Resumes an iteration in which a snapshot was taken.

    Args:
        ctx: the context; `began` and `loader_states` are those of the snapshot.
        set: "train", "valid", or an evaluation's name.
        drawn: batches that had been drawn.

    Raises:
        DataError: the data ended before that.
    """
    data = data_of(ctx, set)
    if drawn == 0:
        _install(ctx, set, Unstarted(ctx, set))
    elif set in ctx.loader_states:
        state, whole = ctx.loader_states.pop(set), length(data)
        if whole is not None and drawn >= whole:
            # Some loaders drop the next epoch if they are restored at the end of one
            _install(ctx, set, iter(()))
        else:
            # What its state leaves out may be drawn again as the epoch continues
            _rewind(ctx, set)
            data.load_state_dict(state)
            _install(ctx, set, iterate(data))
    elif ctx.accelerator.begin_keyed(data, _turn(ctx, set), drawn):
        _install(ctx, set, iterate(data))
    else:
        _replay(ctx, set, drawn)


def _replay(ctx: Context, set: str, drawn: int) -> None:  # noqa: A002  # as above
    _rewind(ctx, set)
    iterator = _install(ctx, set, iterate(data_of(ctx, set)))
    for n in range(drawn):
        try:
            batch = next(iterator, END)
        except SkipBatch:
            continue  # it was skipped then, too
        if batch is END:
            what = {"train": "training", "valid": "validation"}.get(set, set)
            raise DataError(
                f"the {what} data ended after {n} batches, but {drawn} had been drawn when the run"
                " was saved; is it the same data?"
            )


def _rewind(ctx: Context, set: str) -> None:  # noqa: A002  # as above
    """Puts the generators back to where iterating began.

    The run's own states are restored when all scopes are open.
    """
    if set in ctx.began:
        ctx.accelerator.set_random_states(ctx.began[set], data_of(ctx, set))


def _begun(ctx: Context, set: str) -> Iterator[Any]:  # noqa: A002  # as above
    data = data_of(ctx, set)
    if set in ctx.loader_states:  # one that was saved between two epochs
        data.load_state_dict(ctx.loader_states.pop(set))
    if not ctx.accelerator.begin_keyed(data, _turn(ctx, set), 0):
        ctx.began[set] = ctx.accelerator.random_states(data)
    try:
        return iterate(data)
    except StopIteration as error:
        raise DataError(
            f"{type(data).__name__} raised StopIteration where an iteration begins; it never ends"
            " an epoch"
        ) from error


def length_now(ctx: Context, set: str) -> int | None:  # noqa: A002  # as above
    """The batches of the iteration that is due; None if unknown. A sampler may give more later."""
    data = data_of(ctx, set)
    ctx.accelerator.begin_keyed(data, _turn(ctx, set), 0)
    return length(data)


def _turn(ctx: Context, set: str) -> int:  # noqa: A002  # as above
    """Counts the iterations over a set: epochs, or the batches trained on before a validation."""
    if set == "train":
        return ctx.epoch
    return ctx.batches


# As above
def _install(ctx: Context, set: str, iterator: Iterator[Any]) -> Iterator[Any]:  # noqa: A002
    if set == "train":
        ctx.iterator = iterator
    else:
        ctx.valid_iterator = iterator
    return iterator
