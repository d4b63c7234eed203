"""find_batch_size: the largest batch that trains, found on a copy."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping
from typing import Any

import torch

from statetrain.compute.copying import computed_in
from statetrain.data.datasets import as_dataset
from statetrain.data.sizes import length
from statetrain.errors import ConfigError
from statetrain.training.advice import is_out_of_memory
from statetrain.training.fitting import fit
from statetrain.training.lr_finder import generators_kept
from statetrain.validators import check_whole

_OWN = {"epochs", "max_steps", "on_interrupt", "stop", "valid", "validate"}


def find_batch_size(
    model: torch.nn.Module | type[torch.nn.Module],
    train: Any,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: Any,
    opt_hparams: Mapping[str, Any] | None = None,
    start: int = 32,
    most: int | None = None,
    steps: int = 3,
    **options: Any,
) -> int:
    """The largest batch size that trains without running out of memory, by doubling and bisection.

        size = st.find_batch_size(Net(), data, loss=F.cross_entropy, optimizer=torch.optim.Adam)

    Each size is tried on a copy, for so many steps. The model, the optimizer, the loss and the
    generators are afterwards as they were before, as with `lr_find`. Where samples have different
    sizes, a later batch may need more: leave some room.

    Args:
        model, train, loss, optimizer, opt_hparams: as in `fit`; the data is a dataset, or tensors
            or arrays with one row a sample.
        start: the size that is tried first, at least 1.
        most: the largest size to try, at least 1; None is all samples in one batch.
        steps: how many are made with each size, at least 1.
        options: further arguments for `fit`, such as `input`, `device`, `precision` or
            `dataloader_options`.

    Raises:
        ConfigError: the arguments cannot make a search, or the data comes in batches already.
        BaseException: as `fit`; a single sample for which the memory does not suffice is the error
            that it raised.
    """
    check_whole("find_batch_size: start", start)
    check_whole("find_batch_size: steps", steps)
    if most is not None:
        check_whole("find_batch_size: most", most)
    if taken := sorted(_OWN & set(options)):
        raise ConfigError(f"find_batch_size sets {', '.join(taken)} itself; leave it out")
    limit = _limit(train, most)
    loader = dict(options.pop("dataloader_options", None) or {})

    def try_size(size: int) -> Exception | None:
        """The error for want of memory; None if batches of this size train."""
        own = copy.deepcopy((model, optimizer, loss), computed_in(model))
        try:
            fit(
                own[0],
                train,
                loss=own[2],
                optimizer=own[1],
                opt_hparams=opt_hparams,
                epochs=None,
                max_steps=steps,
                on_interrupt="raise",
                dataloader_options={**loader, "batch_size": size},
                **{"verbose": False, **options},
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return error
        return None

    with generators_kept(train, options.get("device", "auto")):
        return _search(try_size, min(start, limit), limit)


def _limit(train: Any, most: int | None) -> int:
    """The largest size to try."""
    dataset = as_dataset(train)
    samples = None if dataset is None else length(dataset)
    if samples is None:
        raise ConfigError(
            f"find_batch_size makes the batches itself, and a {type(train).__name__} makes its own"
            " or has no length; give the dataset, or tensors with one row a sample"
        )
    return min(samples, most or samples)


def _search(try_size: Callable[[int], Exception | None], start: int, limit: int) -> int:
    """The largest size up to a limit that can be tried without an error.

    Raises:
        Exception: that of size 1.
    """
    good, bad, size = 0, limit + 1, start
    while bad - good > 1:
        error = try_size(size)
        if error is None:
            good = size
        elif size == 1:
            raise error
        else:
            bad = size
            error = None  # it holds what the run has left on the device
            _release()
        doubled = min(2 * good, limit)
        size = doubled if good and bad > limit else (good + bad) // 2
    return good


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
