"""Watching a run on a page in a browser: its trace file, on an address of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from statetrain.live.serving import FileSource, Page, serve


def watch_on_a_page(
    path: str | Path,
    against: str | Path | None = None,
    *,
    control: bool = False,
    port: int = 0,
    opened: Callable[[str], object] = print,
    wait: Callable[[], object] = lambda: time.sleep(3600),
) -> None:
    """Serves the page until Ctrl-C.

    Args:
        path: the trace file of the run, or a directory in which the newest is followed.
        against: those of another run, shown next to the first; None shows one.
        control: whether the page can ask the run to stop after its batch, as Ctrl-C does.
        port: of the page; 0 takes a free one.
        opened: what is called with the page's address.
        wait: waits; again and again until it raises `KeyboardInterrupt`.

    Raises:
        TraceError: it is not a trace, or there is none.
        ConfigError: the port is taken.
        OSError: it cannot be read.
    """
    sources = [FileSource(Path(one)) for one in (path, against) if one is not None]
    for source in sources:
        source.look()

    def obey(what: dict[str, Any]) -> str:
        if what["do"] != "stop":
            raise ValueError(f"do must be stop, got {what['do']!r}")
        return sources[0].stop()

    shown = Page(sources)
    if control:
        shown = Page(sources, obey, "stop")
    with serve(shown, port) as server:
        opened(server.url)
        try:
            while True:
                wait()
        except KeyboardInterrupt:
            return
