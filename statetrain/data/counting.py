"""The number of samples of a batch, which means are weighted by.

A tensor has one sample a row. A list may hold one sample an entry, as images of different sizes,
or several inputs with one sample a row, some of which are shared by all samples: it is what agrees
with the target. Graphs, packed sequences and TensorDicts say it themselves. Where nothing can be
known, `size=` says it.
"""

from __future__ import annotations

import itertools
import logging
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from statetrain.context import keys
from statetrain.context.tree import parts
from statetrain.data.structure import describe_batch
from statetrain.errors import ConfigError, DataError
from statetrain.validators import is_whole_number

Size = int | str | Callable[[Any], Any] | None
Count = Callable[[Any, Any, Any], int]  # of batch, input and target

log = logging.getLogger("statetrain")


def counter_for(size: Size, input: Any, target: Any) -> Count:  # noqa: A002  # the field's word
    """What counts the samples of batches like the first one.

    Args:
        size: a number, a key into the batch, or a function of the batch; None follows the rule.
        input, target: of the first batch. A warning is given if their numbers of samples differ.
    """
    if size is not None:
        return _count_by(size)
    samples, others = list(counts_of(input)), list(counts_of(target))
    if samples and others and agreed(samples, target) is None:
        log.warning(
            "an input has %d samples (%s), and its target %d (%s); losses and metrics are weighted"
            " by the first. If it is wrong, give size=: a number, a key, or a function of the"
            " batch",
            samples[0],
            describe_batch(input),
            others[0],
            describe_batch(target),
        )
    if isinstance(input, torch.Tensor) and input.ndim:
        return _rows
    return count


def count(_batch: Any, input: Any, target: Any) -> int:  # noqa: A002  # as above
    """The number of samples: of the input, as its target confirms it; else of the target; else 1.

    Args:
        input, target: of one batch.
    """
    samples = list(counts_of(input))
    if (number := agreed(samples, target)) is not None:
        return number
    return next(iter((*samples, *counts_of(target))), 1)


def agreed(samples: Collection[int], target: Any) -> int | None:
    """The likeliest of some numbers of samples that a target may have, too; None if there is none.

    Args:
        samples: what the input may have.
        target: of the same batch.
    """
    others = list(counts_of(target))
    if _has_entries(target):
        others.insert(0, len(target))
    return next((number for number in others if number in samples), None)


def _has_entries(thing: Any) -> bool:
    """Whether a list has one sample an entry, as boxes do: its parts differ in length."""
    if not isinstance(thing, list | tuple) or hasattr(thing, "_fields"):
        return False
    lengths = {next(counts_of(part), None) for part in thing}
    return len(lengths) > 1 or (bool(thing) and all(isinstance(one, Mapping) for one in thing))


def counts_of(thing: Any) -> Iterator[int]:
    """The numbers of samples that a part of a batch may have, the likeliest first."""
    if isinstance(thing, torch.Tensor):
        if thing.ndim:
            yield int(thing.size(0))
    elif isinstance(thing, PackedSequence):
        yield int(thing.batch_sizes[0])
    elif isinstance(number := getattr(thing, "num_graphs", None), int):
        yield number
    elif isinstance(shape := getattr(thing, "batch_size", None), torch.Size) and shape:
        yield shape[0]
    elif not isinstance(thing, str | bytes):
        yield from _counts_of_container(thing)


def _counts_of_container(thing: Any) -> Iterator[int]:
    """The first dimensions of its parts that have one; and of a list, the number of entries."""
    for _, part in parts(thing):
        yield from itertools.islice(counts_of(part), 1)
    if isinstance(thing, list | tuple) and thing and not hasattr(thing, "_fields"):
        yield len(thing)


def _rows(_batch: Any, input: torch.Tensor, _target: Any) -> int:  # noqa: A002  # as above
    return input.size(0)


# ---------------------------------------------------------------- size=


def check_size(size: Any) -> None:
    """Raises a `ConfigError` for what cannot say the number of samples."""
    is_number = is_whole_number(size, 1)
    if size is not None and not is_number and not isinstance(size, str) and not callable(size):
        raise ConfigError(
            "size must be a number of samples above 0, a key into the batch or a function of the"
            f" batch, got {size!r:.80}"
        )


def _count_by(size: int | str | Callable[[Any], Any]) -> Count:
    if isinstance(size, int):
        return lambda batch, input, target: size  # noqa: A006  # as above
    if isinstance(size, str):
        take: Callable[[Any], Any] = keys.getter(size)
    else:
        take = size
    return lambda batch, input, target: _whole(take(batch), size)  # noqa: A006  # as above


def _whole(value: Any, size: Any) -> int:
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        value = value.item()
    try:
        number = operator.index(value)
    except TypeError as error:
        raise DataError(
            f"size={size!r:.80} must give a whole number for each batch, got {value!r:.80}"
        ) from error
    if number < 0:
        raise DataError(f"size={size!r:.80} must give a number of samples, got {number}")
    return number
