"""ModelSummary: the modules of a model with their shapes and parameters, as a table."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, frozen
from torch.nn.parameter import is_lazy

from statetrain.compute.copying import computed_in
from statetrain.compute.holding import held_in_eval
from statetrain.data.structure import tensors_in
from statetrain.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Group

_WIDTH = 120


@frozen
class SummaryRow:
    """A module of a model.

    Attributes:
        name: as `named_modules` says; empty for the model itself.
        kind: its class.
        shapes: of the tensors that it returned in its first call; empty if it was not called.
        calls: of it in one forward.
        parameters: numbers that it and the modules within it have, shared ones once.
        trained: how many of these require a gradient.
    """

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    calls: int
    parameters: int
    trained: int

    @property
    def depth(self) -> int:
        """How many modules are around it."""
        return len(self.name.split(".")) if self.name else 0


@define
class _Called:
    """What one module returned."""

    shapes: tuple[tuple[int, ...], ...] = ()
    calls: int = 0

    def note(self, module: Any, arguments: Any, output: Any) -> None:
        """Called with each output."""
        if not self.calls:
            self.shapes = tuple(tuple(tensor.shape) for tensor in tensors_in(output))
        self.calls += 1


class ModelSummary:
    """A model as a table: its modules, what they return, and how many parameters they have.

        print(st.ModelSummary(model, batch))
        print(st.ModelSummary(model))                  # without shapes

    The shapes are those of one call of the model, in eval mode and without gradients; the model is
    afterwards as it was before. A model with lazy modules is copied for it.

    Args:
        model: a module.
        input: what it is called with: a tensor; a tuple or list of arguments; a mapping of
            arguments by name. It has to be where the model is. None: it is not called.
        depth: how many levels of modules the printed table shows; `rows` has all.

    Attributes:
        rows: one for each module, in the order of `named_modules`.
        flops: floating-point operations of that call, as torch's `FlopCounterMode` counts them
            (products of matrices, convolutions, attention); None if the model was not called.

    Raises:
        ConfigError: `model` is no module.
        BaseException: what the model raised.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        input: Any = None,  # noqa: A002  # the word that users look for
        *,
        depth: int = 3,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(f"ModelSummary takes a module, got {type(model).__name__}")
        self.depth = depth
        if input is not None and any(map(is_lazy, model.parameters())):
            model = copy.deepcopy(model, computed_in(model))
        seen: dict[str, _Called] = {}
        self.flops: int | None = None
        if input is not None:
            seen, self.flops = _outputs_of(model, input)
        self.rows = [
            SummaryRow(
                name,
                type(module).__name__,
                seen.get(name, _Called()).shapes,
                seen.get(name, _Called()).calls,
                _count(module.parameters()),
                _count(p for p in module.parameters() if p.requires_grad),
            )
            for name, module in model.named_modules()
        ]
        self._called = input is not None
        self._bytes = sum(
            tensor.numel() * tensor.element_size()
            for tensor in (*model.parameters(), *model.buffers())
            if not is_lazy(tensor)
        )

    @property
    def parameters(self) -> int:
        """How many numbers the model has as parameters."""
        return self.rows[0].parameters

    @property
    def trained(self) -> int:
        """How many of them require a gradient."""
        return self.rows[0].trained

    @property
    def frozen(self) -> int:
        """How many of them do not."""
        return self.parameters - self.trained

    @property
    def mebibytes(self) -> float:
        """What parameters and buffers take, in MiB."""
        return self._bytes / 2**20

    # ------------------------------------------------------------ shown

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """The heads of the columns, and the texts of the rows that are shown."""
        head = ["module", "class", "parameters", "frozen"]
        shown = [row for row in self.rows if row.depth <= self.depth]
        cells = [
            [
                _indented(row),
                row.kind,
                f"{row.parameters:,}",
                _or_empty(row.parameters - row.trained),
            ]
            for row in shown
        ]
        if self._called:
            head.insert(2, "output")
            for line, row in zip(cells, shown, strict=True):
                line.insert(2, _output(row))
        return head, cells

    def __rich__(self) -> Group:
        from rich import box
        from rich.console import Group
        from rich.table import Table

        head, cells = self._cells()
        table = Table(box=box.SIMPLE_HEAD)
        for name in head:
            numbers = name in ("parameters", "frozen")
            table.add_column(name, justify="right" if numbers else "left", no_wrap=numbers)
        for line in cells:
            table.add_row(*map(_literal, line))
        return Group(table, _literal(f" {repr(self)[1:-1]}"))

    def __str__(self) -> str:
        """The table for a person."""
        from rich.console import Console

        file = io.StringIO()
        Console(file=file, width=_WIDTH, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines())

    def _repr_html_(self) -> str:
        from statetrain.notebook import table

        return table(*self._cells(), repr(self)[1:-1])

    def __repr__(self) -> str:
        work = ""
        if self.flops is not None:
            work = f"; {self.flops:,} floating-point operations"
        return (
            f"<ModelSummary: {self.parameters:,} parameters, {self.trained:,} of them trained,"
            f" {self.frozen:,} frozen; {self.mebibytes:,.2f} MiB{work}>"
        )


def _outputs_of(model: torch.nn.Module, given: Any) -> tuple[dict[str, _Called], int]:
    """What each module returns in one call of the model, by name, and how many operations it is."""
    from torch.utils.flop_counter import FlopCounterMode

    seen = {name: _Called() for name, _ in model.named_modules()}
    call = partial(model, given)
    if isinstance(given, Mapping):
        call = partial(model, **given)
    elif isinstance(given, tuple | list):
        call = partial(model, *given)
    with ExitStack() as until, torch.no_grad(), held_in_eval(model):
        for name, module in model.named_modules():
            until.callback(module.register_forward_hook(seen[name].note).remove)
        until.enter_context(torch.random.fork_rng(devices=[]))
        counter = until.enter_context(FlopCounterMode(display=False))
        call()
    return seen, counter.get_total_flops()


def _count(parameters: Iterator[torch.nn.Parameter]) -> int:
    """How many numbers they have; a lazy one has none so far."""
    return sum(p.numel() for p in parameters if not is_lazy(p))


def _indented(row: SummaryRow) -> str:
    return "  " * row.depth + (row.name.rpartition(".")[2] or "model")


def _output(row: SummaryRow) -> str:
    text = ", ".join(map(str, row.shapes))
    return f"{text} x {row.calls}" if row.calls > 1 else text


def _or_empty(n: int) -> str:
    return f"{n:,}" if n else ""


def _literal(text: str) -> Any:
    from rich.text import Text

    return Text(text)
