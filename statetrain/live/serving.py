"""A page that follows runs, on an address of this machine that needs a token.

It reads the trace files, so it works during a run, after it, and on another machine's disk,
and costs the run nothing.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Protocol, Self
from urllib.parse import parse_qs, urlsplit

from attrs import Factory, define

from statetrain import jsons
from statetrain.errors import ConfigError, TraceError
from statetrain.live.chronicle import Chronicle
from statetrain.live.page import data_of_runs, page
from statetrain.live.stream import LiveStream
from statetrain.trace.following import Following

_LONGEST = 1 << 16  # bytes of a command


class EventSource(Protocol):
    """A run that a page shows."""

    name: str

    def look(self) -> Chronicle:
        """What is known of the run by now."""

    def status(self) -> str:
        """What it is doing, as text."""


@define(eq=False)
class FileSource:
    """A run by its trace file, or the newest one in a directory.

    Attributes:
        path: the file or directory.
        name: what the run is called on the page.
    """

    path: Path
    name: str = ""
    _following: Following[LiveStream] = Factory(
        lambda self: Following(self.path, make=LiveStream), takes_self=True
    )

    def look(self) -> Chronicle:
        """Reads what is new in the file.

        Raises:
            TraceError: it is not a trace, or nothing is in it yet.
            OSError: it cannot be read.
        """
        try:
            self._following.poll()
        except FileNotFoundError:
            if self._following.reading is None:
                raise
            # It is being replaced: what is known of it stays for a moment
        reading = self._following.reading
        if reading is None or reading.chronicle is None:
            raise TraceError(f"{self.path} is not a trace yet: it has no header")
        self.name = self.name or str(self.path)
        return reading.chronicle

    def status(self) -> str:
        """Whether the run continues, as far as its file tells."""
        return "running"

    def stop(self) -> str:
        """Asks the run to stop after this batch, as Ctrl-C does; returns what happened.

        Only a process on this machine that has the file open is asked.
        """
        reading = self._following.reading
        assert reading is not None
        process = reading.header.get("run", {}).get("process")
        if not isinstance(process, int) or not _has_open(process, self._following.file):
            return "the run is not on this machine, or is over: stop it where it runs"
        os.kill(process, signal.SIGINT)
        return "asked to stop"


def _has_open(process: int, file: Path | None) -> bool:
    """Whether a process of this machine has a file open, as far as the system tells."""
    try:
        return file is not None and any(
            link.resolve() == file.resolve() for link in Path(f"/proc/{process}/fd").iterdir()
        )
    except OSError:
        return False


Command = Callable[[dict[str, Any]], str]


@define(eq=False)
class Page:
    """What a server answers.

    Attributes:
        sources: the runs, one or two.
        command: does what a button asks for; None for a page that only shows.
        control: which buttons there are: "", "stop" or "steps".
        token: what an address has to carry.
    """

    sources: Sequence[EventSource]
    command: Command | None = None
    control: str = ""
    token: str = Factory(lambda: secrets.token_urlsafe(16))
    _lock: Lock = Factory(Lock)

    def html(self) -> str:
        """The page."""
        with self._lock:
            chronicles = [source.look() for source in self.sources]
            data = data_of_runs(chronicles, [source.name for source in self.sources])
        return page({**data, "source": self.token, "control": self.control}, connects=True)

    def news(self, since: list[Any]) -> dict[str, Any]:
        """What a page that knows so much does not know yet.

        Args:
            since: of each run: its id, generation, transitions and rows.
        """
        with self._lock:
            runs = [
                _news(source.look(), *known)
                for source, known in zip(self.sources, since, strict=True)
            ]
        return {"runs": runs, "status": self.sources[0].status()}

    def do(self, what: dict[str, Any]) -> str:
        """Does what a button asks for."""
        if self.command is None:
            return "this page only shows; start it with --control"
        return self.command(what)


def _news(
    chronicle: Chronicle, identity: str, generation: int, transitions: int, rows: int
) -> dict[str, Any]:
    if (chronicle.about.get("id"), chronicle.generation) != (identity, generation):
        return {**chronicle.record(), "whole": True, "table": chronicle.table}
    return chronicle.record(transitions, rows)


# ---------------------------------------------------------------- the server


@define(eq=False)
class Server:
    """A server on this machine alone; close it, or use it in a `with`.

    Attributes:
        url: the address, with its token.
    """

    url: str
    _server: ThreadingHTTPServer

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(shown: Page, port: int = 0) -> Server:
    """Answers on `127.0.0.1`, in a thread.

    Args:
        shown: what is answered.
        port: 0 takes a free one.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, shown))
    except OSError as error:
        raise ConfigError(f"port {port} cannot be used: {error}; give another one") from error
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    return Server(f"http://127.0.0.1:{server.server_port}/?token={shown.token}", server)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, shown: Page, *args: Any) -> None:
        self.shown = shown
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answers with the page, or with news."""
        address = urlsplit(self.path)
        if not self._is_allowed(address.query):
            return
        if address.path == "/":
            self._answer(self.shown.html(), "text/html")
        elif address.path == "/data":
            try:
                since = jsons.loads(parse_qs(address.query)["since"][0])
                text = jsons.dumps(self.shown.news(since))
            except (ValueError, TypeError, LookupError, OSError) as error:
                self._answer(str(error), "text/plain", HTTPStatus.BAD_REQUEST)
                return
            self._answer(text, "application/json")
        else:
            self._answer("there is nothing here", "text/plain", HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Does what a button asks for."""
        address = urlsplit(self.path)
        if not self._is_allowed(address.query):
            return
        try:
            length = min(int(self.headers.get("Content-Length", 0)), _LONGEST)
            what = jsons.loads(self.rfile.read(length))
            self._answer(self.shown.do(dict(what)), "text/plain")
        except (ValueError, TypeError, LookupError) as error:
            self._answer(str(error), "text/plain", HTTPStatus.BAD_REQUEST)

    def _is_allowed(self, query: str) -> bool:
        """Whether a request carries the token, and was sent to this machine by that name."""
        token = parse_qs(query).get("token", [""])[0]
        host = self.headers.get("Host", "").rpartition(":")[0]
        # Another page whose name leads here must not read it
        if secrets.compare_digest(token.encode(), self.shown.token.encode()) and host in (
            "127.0.0.1",
            "localhost",
        ):
            return True
        self._answer("this page needs its token", "text/plain", HTTPStatus.FORBIDDEN)
        return False

    def _answer(self, text: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        with suppress(ConnectionError):  # the page was closed
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""
