"""Supervised training: the standard table with the edits that the options ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from statetrain.contracts.declaring import declares_read
from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.standard.edits import (
    EDITS,
    Edit,
    hold_buffers,
    replay_steps,
    seed_batches,
    weigh_windows,
)
from statetrain.standard.options import Options, SupervisedOptions, options_of
from statetrain.standard.precision import Precision, mixed_precision
from statetrain.standard.table import TABLE


def supervised(**options: Unpack[SupervisedOptions]) -> Lifecycle:
    """The lifecycle of supervised training, with the options that are on.

        supervised(accumulate=4, non_finite="skip", stop=EarlyStopping("valid_loss", patience=5))

    Args:
        options: by name; `statetrain.standard.options.Options` has each with its default and its
            meaning.

    Raises:
        TypeError: there is no option of that name.
        ConfigError: an option is out of range, or two exclude each other.
    """
    return edited(options_of(options))


def edited(options: Options, edits: Iterable[Edit] = EDITS) -> Lifecycle:
    """The standard table with the edits that are on.

    Args:
        options: which edits ask for.
        edits: in the order in which they are made. Put your own at its place among `EDITS` to have
            it under the edits after it; where it does not matter, `supervised(edits=...)` does.
    """
    life = TABLE.draft()
    for edit in edits:
        if edit.on(options):
            life = edit.make(life, options)
    return life.checked()


def adopt(
    life: Lifecycle,
    *,
    seeded: bool = False,
    buffers: bool = False,
    by_count: bool = False,
    closure: bool = False,
    precision: Precision | None = None,
) -> Lifecycle:
    """A lifecycle of the user's own with what `fit` adds to a standard one by itself.

    It is added wherever the roles for it are, and left out where the lifecycle has it already.

    Args:
        life: any lifecycle.
        seeded: whether each batch seeds the generators.
        buffers: whether a refused batch leaves the buffers as they were.
        by_count: whether windows of accumulated batches are means over what counts.
        closure: whether the optimizers' steps compute the loss again.
        precision: of the model and the loss; None leaves the types as they are.

    Raises:
        ConfigError: the lifecycle has no place for it.
    """
    options = Options()
    if life.by_role("report"):
        options = Options(finite_check="late")
    if seeded and not any(declares_read(arrow.effect, "seed") for arrow in life.transitions):
        life = seed_batches(life, options)
    if buffers and not life.by_role("hold"):
        life = hold_buffers(life, options)
    if by_count:
        life = weigh_windows(life)
    if closure:
        life = replay_steps(life)
    if precision is not None:
        life = mixed_precision(life, precision)
    return life
