"""How the code reads, in numbers that only fall; and a map for contributors that names every folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from readability import PACKAGE, Reading, parameters, read

# What the package comes to today. Lower a number when the code has become better than it.
CEILINGS = {
    "lines over 100 columns": 0,
    "conditional expressions per 1,000 lines": 4,
    "nested conditional expressions": 0,
    "mean cyclomatic complexity": 3.33,
    "functions with a complexity over 15": 0,
    "parameters declared as ctx: Any": 0,
    "modules in the root": 12,
    "named parameters of fit": 30,
}


@pytest.fixture(scope="module")
def package() -> Reading:
    return read(sorted(PACKAGE.rglob("*.py")))


@pytest.mark.parametrize("what", CEILINGS)
def test_the_numbers_only_fall(what: str, package: Reading) -> None:
    """No change makes the package read worse; `python benchmarks/readability.py` lists the places."""
    found = {
        "lines over 100 columns": len(package.wide),
        "conditional expressions per 1,000 lines": 1000 * package.conditionals / package.lines,
        "nested conditional expressions": len(package.nested),
        "mean cyclomatic complexity": package.mean_complexity,
        "functions with a complexity over 15": len(package.complex()),
        "parameters declared as ctx: Any": len(package.untyped),
        "modules in the root": len(list(PACKAGE.glob("*.py"))),
        "named parameters of fit": parameters(PACKAGE / "training/fitting.py", "fit"),
    }
    assert found[what] <= CEILINGS[what]


def test_what_is_counted(tmp_path: Path) -> None:
    """On a file of which the numbers are known."""
    path = tmp_path / "one.py"
    path.write_text(
        "def f(ctx: Any, x):\n"  # one parameter without a type; 1 way
        "    if x and ctx:\n"  # 2 more
        "        return 1 if x else 2 if ctx else 3\n"  # 2 more, nested
        "    return [y for y in x if y]\n"  # 2 more
        f"# {'x' * 99}\n"
    )
    found = read([path])
    assert (found.lines, len(found.wide), found.conditionals) == (5, 1, 2)
    assert (len(found.nested), len(found.untyped)) == (1, 1)
    assert list(found.complexities.values()) == [7]
    assert found.complex(6) == [f"{path}:1 f: 7"]


def test_the_map_names_every_folder() -> None:
    """CONTRIBUTING says where things live: each folder of the package, and no other."""
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [name.strip(" `/") for row in rows for name in row.split(",")]
    assert sorted(named) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    for path in ("context/context.py", "standard/options.py", "standard/edits.py"):
        assert path in page
        assert (PACKAGE / path).exists()
