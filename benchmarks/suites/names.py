"""Hostile names of guards, effects, lifecycles, metrics and directories, through every output."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

import statetrain as st
from statetrain.lifecycle.state import FAILED
from statetrain.lifecycle.text import markdown_table
from suites.case import Case, listening, refused, scratch
from suites.toy import Net, Samples

TITLE = "hostile names"
GOAL = 30

NAMES = (
    *(
        "<script>alert(1)</script>",
        '"];a[URL="javascript:x"];"',
        "{{7*7}}",
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\tTab",
        "\x1b[2J\x1b[31m",
    ),
    *(
        "\u202egnp.exe",
        "../../x",
        "a\nb",
        "--",
        "</script><img src=x onerror=1>",
        "</text><script>1</script>",
        '" onload="alert(1)',
        "]]><!--",
        "&lt;b&gt;",
    ),
    *(
        "a --> b",
        "end",
        "note right of fit",
        "%%{init: {}}%%",
        "click fit href",
        "state fit {",
        "| a | b |",
        "`rm -rf`$(x)",
        "\\N\\L\\G",
        "<<choice>>",
    ),
    *(
        "]; graph [URL=x",
        "\r\nX: y",
        "\x00",
        "\x9b31m",
        "\u2028\u2029",
        "日本語 ✓ 🙂",
        "x" * 500,
        "#quot;;",
        '<table><tr><td href="x">',
        "[*] --> [*]",
    ),
)
PLAIN = "harmless"


def _life(name: str) -> st.Lifecycle:
    """A lifecycle with that name on a guard, an effect, an action and itself."""

    def effect(ctx: Any) -> None: ...

    def action(ctx: Any) -> None: ...

    effect.__doc__ = action.__doc__ = name
    named = st.guard(lambda ctx: False).named(name)
    life = st.supervised(validate=None)
    life = life.insert(st.State("extra", action), between=("pred", "loss"))
    life = life.add(st.Transition("extra", "end", named, effect), first=True)
    try:
        return life.named(name)
    except st.LifecycleError:
        assert not name.isprintable(), "a name on one line was refused"
        return life


def _drawn(name: str) -> None:
    life, plain = _life(name), _life(PLAIN)
    for detail in ("full", "states"):
        _same_svg(life.svg(detail=detail), plain.svg(detail=detail))
        _same_dot(life.dot(detail=detail), plain.dot(detail=detail))
        _same_mermaid(life.mermaid(detail=detail), plain.mermaid(detail=detail))


def _same_svg(text: str, plain: str) -> None:
    found = [
        [(one.tag, sorted(one.attrib)) for one in ElementTree.fromstring(part).iter()]
        for part in (text, plain)
    ]
    kinds = [sorted({(tag, tuple(keys)) for tag, keys in one}) for one in found]
    assert kinds[0] == kinds[1], "there are other tags or attributes"
    lines = [sum(not tag.endswith("text") for tag, _ in one) for one in found]
    assert lines[0] == lines[1], "there is more than words"
    assert not _controls(text.replace("\n", "")), "there are control characters"


_DOT = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_]\w*|-?[\d.]+|->|[\[\]{}=;,<>]|\s+', re.DOTALL)


def _dot_skeleton(text: str) -> list[str]:
    """The tokens without what is quoted or marked up."""
    found, at = [], 0
    while at < len(text):
        if text.startswith("<<", at) or text.startswith(f"<{FAILED}", at):
            depth, begin = 0, at
            while True:
                depth += {"<": 1, ">": -1}.get(text[at], 0)
                at += 1
                if depth == 0:
                    break
            ElementTree.fromstring(f"<a>{text[begin + 1 : at - 1]}</a>")
            assert not re.search(r"(?i)\bhref|\burl", re.sub(r">[^<]*<", "><", text[begin:at])), (
                "there is a link"
            )
            found.append("<label>")
            continue
        token = _DOT.match(text, at)
        assert token, f"it cannot be read at {text[at : at + 40]!r}"
        if not token[0].isspace():
            found.append('"text"' if token[0][0] == '"' else token[0])
        at = token.end()
    return found


def _same_dot(text: str, plain: str) -> None:
    assert _dot_skeleton(text) == _dot_skeleton(plain), "the graph is another one"


def _same_mermaid(text: str, plain: str) -> None:
    lines, others = text.split("\n"), plain.split("\n")
    assert len(lines) == len(others), "there are more lines"
    for line, other in zip(lines, others, strict=True):
        head, _, words = line.partition(" : ")
        assert head == other.partition(" : ")[0], f"the way {line!r} is not {other!r}"
        left = re.sub(r"#(?:\d+|\w+);|<br/>", "", words)  # its own entities
        assert not set(left) & set('<>"{};#%'), f"left as it is: {left!r}"
        assert not _controls(left), f"left as it is: {left!r}"


def _controls(text: str) -> bool:
    return any(
        ord(one) < 32
        or 127 <= ord(one) < 160
        or one in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
        for one in text
    )


def _printed(name: str) -> None:
    text, plain = str(_life(name)), str(_life(PLAIN))
    assert not _controls(text.replace("\n", "")), "it is printed with control characters"
    assert text.count("\n") == plain.count("\n"), "it is printed on more lines"
    for line, other in zip(
        markdown_table(_life(name)).split("\n"),
        markdown_table(_life(PLAIN)).split("\n"),
        strict=True,
    ):
        assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", other)), (
            f"there are other cells in {line!r}"
        )
        assert not re.search(r"(?<!\\)<(?!br/?>)", line), f"there is a tag in {line!r}"
        assert not _controls(line), f"there are control characters in {line!r}"


def _trained(name: str, *callbacks: st.Callback, **options: Any) -> st.Run:
    torch.manual_seed(0)
    data = Samples()
    inputs = torch.cat([data.inputs, torch.zeros(len(data), 1)], 1)
    given: dict[str, Any] = {
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD,
        "opt_hparams": {"lr": 0.1},
        "epochs": 1,
        "metrics": {name: lambda pred, target: 1.0},
    }
    return st.fit(Net(), (inputs, data.targets), callbacks=list(callbacks), **{**given, **options})


def _logged(name: str) -> None:
    """As the name of a metric, and so of a column: CSV, the console, JSON lines, printed histories."""

    class Says(st.Callback):
        writes = ("history.word",)

        def on_exit_train(self, ctx: Any) -> None:
            ctx.logged["word"] = name

    with scratch() as base, listening():
        out = io.StringIO()
        callbacks = [st.CSVLogger(base / "log.csv"), st.Progress(file=out), Says()]
        run = _trained(name, *callbacks)
        text = (base / "log.csv").read_bytes().decode()
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert len({len(row) for row in rows}) == 1, "the columns do not fit"
        assert all(
            not cell.startswith(tuple("=+-@\t\r")) or _is_number(cell)
            for row in rows
            for cell in row
        ), f"a formula in {text!r}"
        for shown in (out.getvalue(), str(run.history), str(run), repr(run)):
            assert not _controls(shown.replace("\n", "").replace("\r", "")), (
                f"printed with control characters: {shown[:200]!r}"
            )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _filed(name: str) -> None:
    """As a directory of checkpoints, and as a state's."""
    with scratch() as base:
        inside = base / "inside"
        inside.mkdir()
        (base / "other").mkdir()
        before = sorted(base.iterdir())
        try:
            target = inside / name
            within = target.resolve().is_relative_to(inside.resolve())
        except (ValueError, OSError):
            within = False
        if not within:  # a user's own path may lead anywhere; what is in names of the run may not
            return
        try:
            _trained("m", st.Checkpoint(target), seed=1)
        except (st.ConfigError, st.CheckpointError, OSError, ValueError):
            pass
        assert sorted(base.iterdir()) == before, "something was written elsewhere"


def _stated(name: str) -> None:
    """As a state's name it is refused, with the name shown in one line, unless it is an identifier."""
    if name.isidentifier():
        return
    for named in (name, "a life"):
        words = refused(
            lambda named=named: st.Lifecycle(  # type: ignore[misc]  # bound now
                named, [st.State(name), st.State("over", final=True)], [st.Transition(name, "over")]
            ),
            st.LifecycleError,
        )
        assert not _controls(words), f"the error is printed with control characters: {words!r:.200}"


def _stopped(name: str) -> None:
    """As a reason to stop, and in an error: what is printed and what is logged."""

    class Stop(st.Callback):
        def on_exit_step(self, ctx: Any) -> None:
            ctx.request_stop(name)

    with listening():
        out = io.StringIO()
        run = _trained("m", Stop(), st.Progress(file=out), verbose=True)
    assert not _controls(repr(run.outcome)), "the outcome is printed with control characters"
    assert not _controls(out.getvalue().replace("\n", "")), "progress prints control characters"


OUTPUTS: dict[str, Callable[[str], None]] = {
    "pictures": _drawn,
    "tables": _printed,
    "columns": _logged,
    "directories": _filed,
    "states": _stated,
    "reasons": _stopped,
}


def cases() -> list[Case]:
    """Each name through each output."""
    return [
        Case(f"{name!r:.60} in {output}", partial(look, name))
        for name in NAMES
        for output, look in OUTPUTS.items()
    ]
