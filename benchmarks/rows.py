"""Numbers as rows: printed for people, or as JSON for the suite."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from attrs import frozen


@frozen
class Row:
    """One number.

    Args:
        what: what was measured.
        value: the median, where there are several.
        unit: of the value.
        goal: the most that it should be; None if there is no such figure.
        bounds: the 95 % bounds of the median, if they were computed.
    """

    what: str
    value: float
    unit: str
    goal: float | None = None
    bounds: tuple[float, float] | None = None

    def text(self) -> str:
        """A line."""
        bounds = "" if self.bounds is None else f"   [{self.bounds[0]:.4g}, {self.bounds[1]:.4g}]"
        goal = "" if self.goal is None else f"   (at most {self.goal:g})"
        return f"{self.what:<68} {self.value:>12,.4g} {self.unit}{bounds}{goal}"


def parser(about: str | None) -> argparse.ArgumentParser:
    """The arguments that every script here takes."""
    it = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    it.add_argument(
        "--quick", action="store_true", help="fewer and shorter blocks: to see that it runs"
    )
    it.add_argument("--json", action="store_true", help="the numbers as JSON")
    return it


def show(rows: Iterable[Row], as_json: bool) -> None:
    """Prints rows."""
    if as_json:
        many: list[Any] = [attrs.asdict(row) for row in rows]
        json.dump(many, sys.stdout)
        print()
    else:
        for row in rows:
            print(row.text())


def run(rows: Callable[[bool], Iterable[Row]], about: str | None) -> None:
    """What a script does that has rows and no arguments of its own: it prints them, measured with one thread."""
    import torch  # others here only print rows, and need it not

    options = parser(about).parse_args()
    torch.set_num_threads(1)
    show(rows(options.quick), options.json)
