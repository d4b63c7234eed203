"""Supervised training: the standard table with the edits that the options ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from statetrain.lifecycle.lifecycle import Lifecycle
from statetrain.standard.edits import EDITS, Edit
from statetrain.standard.options import Options, SupervisedOptions, options_of
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
