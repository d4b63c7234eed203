"""Structured events, through structlog: lines for people, or JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

from statetrain import jsons
from statetrain.logs.streams import Stream, is_terminal
from statetrain.naming import printable

Format = Literal["auto", "console", "json"]
EventFields = MutableMapping[str, Any]

_FIRST = ("timestamp", "level", "event")  # of a JSON line
RESERVED = frozenset({*_FIRST, "self", "method_name"})
"""structlog's own names, which no field may have."""


# As in Log
def event_logger(file: TextIO | None, format: Format, timestamps: bool) -> Any:  # noqa: A002
    """A structlog logger that depends on no global configuration.

    Args:
        file: an open text stream; None is the standard error of the moment.
        format: "auto": "console" on a terminal, "json" elsewhere.
        timestamps: whether events carry the time, in UTC.
    """
    import structlog

    writer = _LineWriter(file)
    for_people = format == "console" or (format == "auto" and writer.isatty())
    processors: list[Any] = [structlog.processors.add_log_level]
    if timestamps:
        processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    if for_people:
        colors = writer.isatty() and not os.environ.get("NO_COLOR")
        processors += [_for_people, structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)]
    else:
        processors += [_render_json]
    # Each argument is given, so that nothing is taken from the global configuration.
    return structlog.wrap_logger(
        writer,
        processors=processors,
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind()


class _LineWriter:
    """What structlog hands its lines to."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def info(self, line: str) -> None:
        # Looked up each time: while bars are drawn, the standard error is a stand-in that prints
        # above them.
        if self._file is None:
            file = sys.stderr
        else:
            file = self._file
        if file is None:  # a process without a console has no standard error
            return
        stream = Stream(file)
        stream.line(line)
        if stream.error is not None:
            raise stream.error if isinstance(stream.error, OSError) else OSError(str(stream.error))

    warning = error = info

    def isatty(self) -> bool:
        return is_terminal(sys.stderr if self._file is None else self._file)


def _for_people(logger: Any, method: str, fields: EventFields) -> EventFields:
    """A processor: everything short, on one line, without a character that moves the cursor."""
    return {printable(name): _readable(value) for name, value in fields.items()}


def _readable(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None or isinstance(value, int):
        return value
    return printable(str(value))


def _render_json(logger: Any, method: str, fields: EventFields) -> str:
    """A processor: one line of JSON, with what every event has in front."""
    order = dict.fromkeys([name for name in _FIRST if name in fields] + list(fields))
    return jsons.dumps(jsons.jsonable({name: fields[name] for name in order}))
