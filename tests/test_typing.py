"""What type checkers and editors know of a user's code: mypy, pyright (by basedpyright, which brings its own node), and completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).parent.parent
USER = ROOT / "tests" / "typed" / "user_code.py"
LINES = USER.read_text(encoding="utf-8").splitlines()
TIMES = 20  # that a server is asked
WRONG = [number for number, line in enumerate(LINES, 1) if line.endswith("  # error")]


def program(name: str) -> str:
    """A program of this environment."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def output_of(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=240
    )
    return done.stdout


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """What pyright is told: this interpreter's packages, and this checkout."""
    where = {"pythonPlatform": "Linux", "extraPaths": [str(ROOT)], "include": [str(USER.parent)]}
    rules = {"typeCheckingMode": "standard"}
    path = tmp_path / "pyrightconfig.json"
    path.write_text(json.dumps(where | rules), encoding="utf-8")
    return path


def test_mypy_finds_the_mistakes_and_nothing_else() -> None:
    """In strict mode, on exactly the lines that are marked."""
    found = output_of(program("mypy"), str(USER))
    assert [int(n) for n in re.findall(r"user_code\.py:(\d+): error", found)] == WRONG, found


def test_pyright_finds_the_mistakes_and_nothing_else(settings: Path) -> None:
    """On exactly the lines that are marked."""
    options = ("-p", str(settings), "--pythonpath", sys.executable, "--outputjson")
    found = json.loads(output_of(program("basedpyright"), *options))["generalDiagnostics"]
    assert [one["range"]["start"]["line"] + 1 for one in found] == WRONG, found


# ---------------------------------------------------------------- completion


def write(stream: IO[bytes], method: str, number: int | None = None, **params: Any) -> None:
    """One message in the protocol of language servers."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if number is not None:
        message["id"] = number
    text = json.dumps(message).encode()
    stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(text), text))
    stream.flush()


def answers(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The messages of a language server."""
    while head := stream.readline():
        length = int(head.partition(b":")[2])
        while stream.readline().strip():
            pass
        yield json.loads(stream.read(length))


def completions(server: subprocess.Popen[bytes], where: dict[str, Any]) -> list[dict[str, Any]]:
    """What is offered at a place; asked some times again, as the server may not be ready."""
    assert server.stdin is not None
    assert server.stdout is not None
    replies = answers(server.stdout)
    for number in range(2, 2 + TIMES):
        write(server.stdin, "textDocument/completion", number, **where)
        mine = (one for one in replies if one.get("id") == number and "method" not in one)
        if items := (next(mine, {}).get("result") or {}).get("items"):
            return list(items)
    raise AssertionError(f"the server offered nothing, {TIMES} times")


def test_an_editor_completes_the_fields_of_the_context() -> None:
    """What a language server offers after `ctx.` in a hook whose argument is a `st.Context`: fields and methods, with their types."""
    server = subprocess.Popen(
        [program("basedpyright-langserver"), "--stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        start_new_session=True,  # node is a child of this process, and ends with it
    )
    assert server.stdin is not None
    assert server.stdout is not None
    line = next(n for n, text in enumerate(LINES) if "ctx.epohc" in text)
    document = {"uri": USER.as_uri()}
    try:
        write(server.stdin, "initialize", 1, capabilities={}, rootUri=None, processId=None)
        write(server.stdin, "initialized")
        opened = {**document, "languageId": "python", "version": 1, "text": "\n".join(LINES)}
        write(server.stdin, "textDocument/didOpen", textDocument=opened)
        place = {"line": line, "character": LINES[line].index("ctx.") + 4}
        items = completions(server, {"textDocument": document, "position": place})
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server.stdin.close()
        server.stdout.close()
    offered = {item["label"] for item in items}
    assert {
        "epoch",
        "history",
        "loss_value",
        "model",
        "pred",
        "log_metric",
        "request_stop",
    } <= offered
