"""The house rules that code can break without anybody noticing."""

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "statetrain"
FILES = sorted(PACKAGE.rglob("*.py"))

# The floors of the house. A module imports from floors below its own and, on its own, from those
# before it.
FLOORS = (
    (
        "naming",
        "jsons",
        "notebook",
        "errors",
        "events",
        "outcome",
        "validators",
        "guards",
        "schedules",
        "lifecycle",
    ),
    ("context", "callback", "contracts"),
    ("machine", "trace", "diagram", "live"),
    ("report",),
    ("losses", "data", "logs", "standard", "compute", "ranks"),
    ("checkpoints", "sanity", "callbacks", "testing"),
    ("training",),
    ("friends",),
    ("commands", "pytest_plugin", "__init__", "__main__"),
)
PLACE = {
    name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)
}


def module_of(path: Path) -> str:
    """The part of a file's path that the floors know."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    """The modules of the package that a file imports when it is imported itself."""
    return imports_among(ast.parse(path.read_text()).body)


def imports_among(nodes: Iterable[ast.AST]) -> list[str]:
    """The modules of the package that some statements import."""
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("statetrain"):
            parts = (node.module or "").split(".")
            found += [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    """No module imports from its own floor against the order, or from a floor above."""
    own = module_of(path)
    for other in imports(path):
        assert other == own or PLACE[other] < PLACE[own], (
            f"{own} {PLACE[own]} imports {other} {PLACE[other]}"
        )


# Within functions a module may look up only here: methods that hand on to a floor above, and load
# it when they are called.
DELEGATES = {
    ("lifecycle/lifecycle.py", "diagram"),  # `Lifecycle.svg` and its like
    ("lifecycle/lifecycle.py", "standard"),  # `Lifecycle.from_dict`
    ("contracts/outline.py", "diagram"),  # `Outline.mermaid`, `Outline.dot`
    ("machine/machine.py", "diagram"),  # what a notebook shows
    ("trace/value.py", "diagram"),
    ("diagram/files.py", "live"),  # a drawing as a page
}


def test_functions_import_from_below_too() -> None:
    """Imports within functions tie no module to a floor above its own, but for the delegates."""
    upward = set()
    for path in FILES:
        own = module_of(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                upward |= {
                    (path.relative_to(PACKAGE).as_posix(), other)
                    for other in imports_among(ast.walk(node))
                    if other in PLACE and other != own and PLACE[other] > PLACE[own]
                }
    assert upward == DELEGATES


def test_every_module_has_its_place() -> None:
    """The floors name all modules of the package, and no others."""
    assert {module_of(path) for path in FILES} == set(PLACE)


def test_only_the_machine_moves_the_state() -> None:
    """`ctx.place`, which has the state, is assigned where a machine walks, and where it fails."""
    movers = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and node.attr == "place"
            ):
                movers.add(path.name)
    assert movers == {"machine.py", "engine.py", "failing.py"}


def test_classes_are_shallow() -> None:
    """No class of the package is more than two steps below what it builds on, and none has two bases with code."""
    bases: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [b.id for b in node.bases if isinstance(b, ast.Name)]

    def depth(name: str) -> int:
        return 1 + max((depth(base) for base in bases[name]), default=0) if name in bases else 0

    too_deep = {name for name in bases if depth(name) > 2}
    # An event that is narrower than another is what the engines are tested with
    assert too_deep <= {"SharpDetour", "ContractError"}
    assert not {name for name, own in bases.items() if len([b for b in own if b in bases]) > 1}


TORCH_FREE = """
import sys
import statetrain
from statetrain import Callback, EarlyStopping, Every, Lifecycle, Machine, State, Transition, guard, supervised
from statetrain.testing import walk
import statetrain.standard.actions, statetrain.context.context, statetrain.diagram, statetrain.lifecycle.text
life = supervised(stop=EarlyStopping("valid_loss", 3), accumulate=2, validate=Every(10, "steps"))
walk(life, {"more epochs": [True], "a batch was drawn": [True, True]})
str(life), life.mermaid(), life.dot()
Machine(life)
loaded = {"torch", "transitions", "structlog", "rich", "numpy", "graphviz"} & set(sys.modules)
sys.exit(f"loaded {loaded}" if loaded else 0)
"""


def test_seeing_and_walking_a_lifecycle_needs_no_torch() -> None:
    """Lifecycles can be made, checked, walked, printed and drawn as text without loading torch or anything heavy."""
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_has_no_side_effect() -> None:
    """`import statetrain` loads none of its modules but itself, and no third-party one."""
    code = (
        "import sys; before = set(sys.modules); import statetrain; print(*sorted(set(sys.modules) -"
        " before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert roots - sys.stdlib_module_names == {"statetrain"}
    assert "statetrain.lifecycle.lifecycle" not in done.stdout.split()


NAMED_TWICE: set[str] = {"Lane", "Log", "Records", "Row"}  # names that are still to be told apart


def test_the_public_names_are_listed_once() -> None:
    """Every line of the stub is one name, which can be loaded from where it says."""
    import statetrain

    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    listed = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            ((name, renamed),) = [(alias.name, alias.asname) for alias in node.names]
            assert name == renamed
            listed[name] = node.module
    assert listed == statetrain._HOMES
    assert set(dir(statetrain)) == {*listed, "__version__"}
    assert all(getattr(statetrain, name) is not None for name in listed)


def test_reading_the_public_names_takes_no_time() -> None:
    """The stub is read in less than a millisecond of the processor, the best of five times."""
    import statetrain

    times = []
    for _ in range(5):
        start = time.process_time()
        statetrain._homes()
        times.append(time.process_time() - start)
    assert min(times) < 0.001


def test_a_class_has_a_name_of_its_own() -> None:
    """No name of a class, private or public, or of a type alias is used in two modules."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            name = ""
            if isinstance(node, ast.ClassDef):
                name = node.name.lstrip("_")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                name = target.id if isinstance(target, ast.Name) else ""
                if not re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                    continue
            if name:
                places.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    twice = {name for name, found in places.items() if len(found) > 1}
    assert twice <= NAMED_TWICE


def test_modules_of_functions_are_loaded_when_they_are_named() -> None:
    """`st.schedules` needs no import of its own, and a slip gets a suggestion, not a list of everything."""
    code = (
        "import statetrain as st; print(st.schedules.linear(0.0, 1.0, 4)(1), st.keys.get({'a': 1},"
        " 'a')); st.schedulse"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0.25", "1"]
    assert "no attribute 'schedulse'; did you mean 'schedules'?" in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", "import statetrain as st; st.qqqq"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip().endswith("module 'statetrain' has no attribute 'qqqq'")


def test_the_code_speaks_of_the_project_alone() -> None:
    """No file names a path of somebody's machine."""
    root = PACKAGE.parent
    for path in [
        *FILES,
        *root.glob("*.md"),
        *root.glob("docs/*.md"),
        *root.glob("examples/*.py"),
        *root.glob("benchmarks/*"),
    ]:
        if path.is_file() and path.suffix in (".py", ".md"):
            text = path.read_text()
            assert "/work/" not in text, path
            assert "/root/" not in text, path
