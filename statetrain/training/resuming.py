"""Resume: where a run resumes, and what may differ from the run that was saved."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from attrs import Attribute, field, frozen

from statetrain.checkpoints.differences import read_allowed


def _kinds(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    read_allowed(value)


@frozen
class Resume:
    """Where a run resumes, and what may differ from the run that was saved.

        st.fit(..., resume=st.Resume("last", allow="lifecycle"))

    `fit(resume="last")` is `fit(resume=Resume("last"))`, which allows nothing to differ.

    Args:
        source: "last" or "best" of the `Checkpoint` among the callbacks; the number of a step that
            it has saved; or the path of a checkpoint, or of a directory of them.
        allow: what may differ: "lifecycle", "model", "loss", "optimizer", "data", "callbacks"
            (their settings), "seed", "context" (plain values in the fields of a custom one),
            several of them, or True for all. What fits is loaded; the settings of optimizers and
            the values in fields that are given differently now are used.

    Raises:
        ConfigError: a word of `allow` is unknown.
    """

    source: str | int | os.PathLike[str] = "last"
    allow: bool | str | Collection[str] = field(default=(), validator=_kinds)
