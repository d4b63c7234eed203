"""How the code reads, in numbers: `python benchmarks/readability.py [FOLDER]`, of `statetrain` unless said.

What is counted: lines over 100 columns, conditional expressions and nested ones, cyclomatic complexity (as McCabe counts it,
a function that is defined inside of another one by itself), contexts without a type, modules in the root, parameters of `fit`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

PACKAGE = Path(__file__).parent.parent / "statetrain"
WIDTH = 100

Function = ast.FunctionDef | ast.AsyncFunctionDef
_BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.IfExp,
    ast.ExceptHandler,
    ast.comprehension,
)


@frozen
class Reading:
    """What a few files come to.

    Attributes:
        lines: of all files.
        wide: lines over 100 columns, by place.
        conditionals: conditional expressions.
        nested: conditional expressions within others, by place.
        complexities: of functions, by place.
        untyped: parameters that are declared as `ctx: Any`, by place.
    """

    lines: int
    wide: list[str]
    conditionals: int
    nested: list[str]
    complexities: dict[str, int]
    untyped: list[str]

    @property
    def mean_complexity(self) -> float:
        """Of all functions."""
        return sum(self.complexities.values()) / max(1, len(self.complexities))

    def complex(self, most: int = 15) -> list[str]:
        """The functions above a complexity, the worst first."""
        worst = sorted(self.complexities.items(), key=lambda item: -item[1])
        return [f"{place}: {value}" for place, value in worst if value > most]


def within(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions defined in it."""
    stack: list[ast.AST] = list(ast.iter_child_nodes(function))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, Function):
            stack.extend(ast.iter_child_nodes(node))


def complexity(function: Function) -> int:
    """The number of ways through a function, as McCabe counts them."""
    ways = 1
    for node in within(function):
        if isinstance(node, ast.BoolOp):
            ways += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            ways += 1 + len(node.ifs)
        elif isinstance(node, (ast.match_case, _BRANCHES)):
            ways += 1
    return ways


def read(files: list[Path]) -> Reading:
    """Counts what is in these files."""
    reading = Reading(0, [], 0, [], {}, [])
    lines = 0
    conditionals = 0
    for path in files:
        text = path.read_text(encoding="utf-8")
        rows = text.splitlines()
        lines += len(rows)
        reading.wide.extend(f"{path}:{n}" for n, row in enumerate(rows, 1) if len(row) > WIDTH)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.IfExp):
                conditionals += 1
                inner = (part for child in ast.iter_child_nodes(node) for part in ast.walk(child))
                if any(isinstance(part, ast.IfExp) for part in inner):
                    reading.nested.append(f"{path}:{node.lineno}")
            elif isinstance(node, Function):
                reading.complexities[f"{path}:{node.lineno} {node.name}"] = complexity(node)
            elif isinstance(node, ast.arg) and ast.unparse(node) == "ctx: Any":
                reading.untyped.append(f"{path}:{node.lineno}")
    return Reading(
        lines,
        reading.wide,
        conditionals,
        reading.nested,
        reading.complexities,
        reading.untyped,
    )


def parameters(path: Path, name: str) -> int:
    """How many parameters a function of a file names; those behind `*` and `**` have no names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function) and node.name == name:
            own = node.args
            return len(own.posonlyargs) + len(own.args) + len(own.kwonlyargs)
    raise LookupError(f"{path} has no function {name!r}")


def main(folders: list[str]) -> None:
    """Prints the table, and the places that are to be mended."""
    roots = [Path(folder) for folder in folders] or [PACKAGE]
    files = [
        path
        for root in roots
        for path in ([root] if root.suffix == ".py" else sorted(root.rglob("*.py")))
    ]
    found = read(files)
    per_thousand = 1000 * found.conditionals / max(1, found.lines)
    print(f"lines                                  {found.lines}")
    print(f"lines over {WIDTH} columns                 {len(found.wide)}")
    print(f"conditional expressions per 1,000 lines {per_thousand:.1f} ({found.conditionals})")
    print(f"nested conditional expressions         {len(found.nested)}")
    print(f"mean cyclomatic complexity             {found.mean_complexity:.2f}")
    print(f"functions with a complexity over 15    {len(found.complex())}")
    print(f"parameters declared as ctx: Any        {len(found.untyped)}")
    print(f"modules in the root                    {len(list(PACKAGE.glob('*.py')))}")
    print(
        f"named parameters of fit                {parameters(PACKAGE / 'training/fitting.py', 'fit')}"
    )
    for title, places in (
        ("nested conditionals", found.nested),
        ("complex functions", found.complex()),
        ("wide lines", found.wide),
    ):
        if places:
            print(f"\n{title}:", *places, sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
