"""What the fields of a context say of themselves, and what is computed from it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statetrain as st
from statetrain.compute.capture import FIELDS
from statetrain.context.context import Context
from statetrain.context.fields import UNSET, Fact, field, fields_with, made_of, meanings, sources
from statetrain.context.position import Position
from statetrain.standard.actions import close_batch


@pytest.mark.parametrize("kind", [Context, Position])
def test_every_public_field_has_a_docstring(kind: type) -> None:
    """A string below each field says what it is, as editors show it."""
    own = [one.name for one in attrs.fields(kind) if not one.inherited]
    found = meanings(kind)
    assert list(found) == [name for name in own if not name.startswith("_")]
    assert all(text.endswith(".") for text in found.values())


def test_fields_are_found_by_what_they_say() -> None:
    """Fields and properties stand in their order, a property before the first field it is made of."""

    @attrs.define
    class Small:
        first: int = field(Fact.SAVED, default=1)
        second: list[int] = field(Fact.SHOWN, factory=list)
        third: str = field(Fact.SHOWN, made_of=("second",))
        plain: int = 0

        @property
        @made_of("second", "first", facts=(Fact.SHOWN,))
        def both(self) -> list[int]:
            """The two."""
            return [self.first, *self.second]

        @made_of("first")
        def doubled(self) -> int:
            return 2 * self.first

    assert fields_with(Small, Fact.SHOWN) == ("both", "second", "third")
    assert fields_with(Small, Fact.SAVED) == ("first",)
    assert sources(Small) == {
        "both": ("second", "first"),
        "doubled": ("first",),
        "third": ("second",),
    }
    assert (Small().third, Small().both, Small().doubled()) == (UNSET, [1], 2)
    assert Small().second is not Small().second


def test_a_context_keeps_its_slots() -> None:
    """What fields say is looked up at their class: an instance has no dictionary."""
    assert not hasattr(Context(), "__dict__")
    with pytest.raises(AttributeError):
        Context().epohc = 1  # type: ignore[attr-defined]


def test_what_closing_a_batch_clears_is_of_the_batch() -> None:
    """`close_batch` clears fields that say that they end there, all that hold tensors among them."""
    ctx = Context()
    ended = set(fields_with(Context, Fact.OF_BATCH))
    for one in attrs.fields(Context):
        setattr(ctx, one.name, "there")
    close_batch(ctx)
    cleared = {one.name for one in attrs.fields(Context) if getattr(ctx, one.name) is None}
    # Captured values are dropped by what captures; the two numbers are still read at `next_batch`.
    assert cleared == ended - set(FIELDS) - {"batch_size", "loss_value"}


def test_what_is_captured_is_dropped_with_the_batch() -> None:
    """After each batch, none of the fields that are filled on demand holds anything."""

    class Look(st.Callback):
        reads = {"grads.weight", "updates.weight", "update_norms.*", "grad_norms.*"}
        seen: list[Any] = []

        def on_exit_step(self, ctx: Context) -> None:
            self.seen.append([name for name in FIELDS if getattr(ctx, name)])

        def on_enter_record(self, ctx: Context) -> None:
            self.seen.append([name for name in FIELDS if getattr(ctx, name)])

    look = Look()
    data = torch.ones(2, 4), torch.zeros(2, dtype=torch.long)
    st.fit(
        nn.Linear(4, 3),
        data,
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        opt_hparams={"lr": 0.1},
        callbacks=[look],
        verbose=False,
        epochs=1,
    )
    assert look.seen == [["grads", "grad_norms", "updates", "update_norms"], []]
