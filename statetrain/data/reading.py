"""Reading a batch: what the model takes, what the loss takes, and how many samples there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from operator import itemgetter
from typing import Any

import torch
from attrs import field, frozen

from statetrain.context import keys
from statetrain.data.counting import Count, Size, check_size, counter_for
from statetrain.data.passing import (
    Arguments,
    Forward,
    all_but,
    call_with_names,
    call_with_positions,
)
from statetrain.data.placing import is_placed, place
from statetrain.data.structure import describe_batch, is_sequence, parts_of
from statetrain.errors import DataError

Key = str | tuple[str, ...] | list[str] | Mapping[str, str] | None

_INPUT_NAMES = ("input", "inputs", "x")
_TARGET_NAMES = ("target", "targets", "y", "label", "labels")


@frozen
class Layout:
    """How the batches of one loader are read, determined from the first one.

    Attributes:
        place: puts a batch on the device; None if batches are there already.
        split: returns input and target of a placed batch.
        size: the number of samples, of a batch, its input and its target.
        forward: calls the model on an input; None is `model(input)`.
    """

    place: Callable[[Any], Any] | None
    split: Callable[[Any], tuple[Any, Any]]
    size: Count
    forward: Forward | None = None


@frozen
class BatchReader:
    """Determines the layout of a batch.

    Args:
        device: where batches go.
        input: what the model takes: a key into the batch; a tuple of keys for positional arguments;
            a mapping or a list of names for named ones; `"*"` for all parts by name, as
            `model(**batch)`. None: the first item of a tuple or list, or the part called `input`,
            `inputs` or `x`; a mapping with other parts too is given by name if all of them are
            arguments of the model's `forward`, but for a target that is not.
        target: what the loss takes, likewise; None: the second item, or `target`, `targets`, `y`,
            `label`, `labels`.
        target_needed: whether a batch without a target is an error.
        size: the number of samples of a batch: a number, a key, or a function of the batch. None
            follows the rule of `statetrain.data.counting`.
        arguments: what the model's `forward` takes.

    Raises:
        ConfigError: `size` is none of these.
    """

    device: torch.device
    input: Key = None
    target: Key = None
    target_needed: bool = True
    size: Size = field(default=None, validator=lambda _self, _field, value: check_size(value))
    arguments: Arguments = field(factory=Arguments)

    def __call__(self, batch: Any) -> Layout:
        """The layout of batches like this one.

        Raises:
            DataError: input or target cannot be found; the message lists what the batch has.
        """
        if is_placed(batch, self.device):
            move, placed = None, batch
        else:
            move, placed = self.place, self.place(batch)
        take, forward = self._split(placed)
        try:
            given, wanted = take(placed)
        except (KeyError, IndexError) as error:
            raise DataError(f"a batch cannot be read: {error.args[0]}") from error
        return Layout(move, take, counter_for(self.size, given, wanted), forward)

    def place(self, batch: Any) -> Any:
        """A batch on the device, whole."""
        return place(batch, self.device)

    def _split(self, batch: Any) -> tuple[Callable[[Any], tuple[Any, Any]], Forward | None]:
        """What takes input and target out of batches like this one, and what calls the model."""
        if self.input is None and self.target is None and is_sequence(batch) and len(batch) > 1:
            return itemgetter(0, 1), None
        take_input, forward = self._input_of(batch)
        take_target = _getter(self.target) or _find_target(batch, self.target_needed)
        return lambda batch: (take_input(batch), take_target(batch)), forward

    def _input_of(self, batch: Any) -> tuple[Callable[[Any], Any], Forward | None]:
        if self.input == "*":
            _check_named(batch)
            return all_but(()), call_with_names
        take = _getter(self.input)
        if take is not None:
            return take, _call_of(self.input)
        if self._is_by_name(batch):
            return all_but(self._left_out(batch)), call_with_names
        return _find_input(batch, self.arguments), None

    def _is_by_name(self, batch: Any) -> bool:
        """Whether a batch's parts are the arguments of the model, and more than an input alone."""
        if not isinstance(batch, Mapping):
            return False
        there = set(parts_of(batch))
        if there & set(_INPUT_NAMES) and there <= {*_INPUT_NAMES, *_TARGET_NAMES}:
            return False
        return self.arguments.fit(there - self._left_out(batch))

    def _left_out(self, batch: Any) -> frozenset[str]:
        """The target's part, where the model does not take it."""
        targets = set(_TARGET_NAMES)
        if isinstance(self.target, str):
            targets.add(self.target)
        return frozenset(targets & set(parts_of(batch)) - self.arguments.names)


def _call_of(key: Key) -> Forward | None:
    if isinstance(key, tuple):
        return call_with_positions
    if isinstance(key, Mapping | list):
        return call_with_names
    return None


def _check_named(batch: Any) -> None:
    """Raises a `DataError` if the parts of a batch have no names."""
    if isinstance(batch, torch.Tensor) or is_sequence(batch):
        raise DataError(
            "input='*' gives the model the parts of a batch by name, and a batch is a"
            f" {describe_batch(batch)}, whose parts have none; leave input= out, or say"
            " input=('[0]', '[1]') for positional arguments"
        )


def _getter(key: Key) -> Callable[[Any], Any] | None:
    """What takes a key's part out of a batch; None if there is no key."""
    if key is None:
        return None
    if isinstance(key, list):
        key = {name: name for name in key}
    if isinstance(key, tuple):
        parts = [_get(part) for part in key]
        return lambda batch: tuple(part(batch) for part in parts)
    if isinstance(key, Mapping):
        named = {name: _get(part) for name, part in key.items()}
        return lambda batch: {name: part(batch) for name, part in named.items()}
    return _get(key)


def _get(key: str) -> Callable[[Any], Any]:
    if key == "batch":
        return lambda batch: batch
    return keys.getter(str(key))


def _find_input(batch: Any, arguments: Arguments) -> Callable[[Any], Any]:
    if isinstance(batch, torch.Tensor):
        return lambda batch: batch
    if is_sequence(batch):
        return _find_item(batch, 0) or _refuse(batch, "input")
    return _find_part(batch, _INPUT_NAMES) or _refuse(batch, "input", arguments.names)


def _find_target(batch: Any, needed: bool) -> Callable[[Any], Any]:
    found = None
    if is_sequence(batch):
        found = _find_item(batch, 1)
    elif not isinstance(batch, torch.Tensor):
        found = _find_part(batch, _TARGET_NAMES)
    if found is not None:
        return found
    if not needed:
        return lambda batch: None
    return _refuse(batch, "target")


def _find_item(batch: Any, position: int) -> Callable[[Any], Any] | None:
    if position < len(batch):
        return itemgetter(position)
    return None


def _find_part(batch: Any, names: tuple[str, ...]) -> Callable[[Any], Any] | None:
    there = parts_of(batch)
    return next((keys.getter(name) for name in names if name in there), None)


def _refuse(batch: Any, what: str, taken: Collection[str] = ()) -> Callable[[Any], Any]:
    """Raises a `DataError` for a batch without an input or a target."""
    if isinstance(batch, torch.Tensor) or is_sequence(batch):
        raise DataError(
            f"a batch is a {describe_batch(batch)} that has no {what}; give the data as (input,"
            f" target), or say {what}='batch' if it is the whole batch"
        )
    there = parts_of(batch)
    listed = ", ".join(map(repr, there)) or "no parts"
    example = next(iter(there), "name")
    message = f"a batch is a {type(batch).__name__} with {listed}; which is the {what}? Say"
    message += f" {what}={example!r}"
    if known := [name for name in there if name in taken]:
        message += f", or {what}={known} for what the model's forward takes by name"
    elif what == "input":
        message += ", or input='*' for model(**batch)"
    raise DataError(message)
