"""The picture of a data flow: who writes each field of the context, and who reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from statetrain.diagram.as_dot import quote
from statetrain.diagram.as_mermaid import escape
from statetrain.diagram.theme import FONT, ThemeName, theme_of
from statetrain.errors import ConfigError
from statetrain.naming import did_you_mean

if TYPE_CHECKING:
    from statetrain.contracts.outline import DataFlow, Use


def flow_mermaid(
    flow: DataFlow, *, fields: Iterable[str] | None = None, theme: ThemeName = "light"
) -> str:
    """The picture of a data flow as a Mermaid flowchart.

    Boxes write and read, rounded ones are fields.

    Args:
        flow: of a machine; see `Machine.dataflow`.
        fields: which to show; None shows those that come into being in a run, or that a callback
            writes.
        theme: the colours of the fields; either can be read on either background.

    Returns:
        Text for a code block of the language `mermaid`; the same for the same machine.

    Raises:
        ConfigError: a field is unknown, or the theme.
    """
    shown, users, edges = _select(flow, fields)
    colours = theme_of(theme)
    lines = ["flowchart LR"]
    lines += [f'    f{i}(["{escape(name)}"])' for i, name in enumerate(shown)]
    lines += [f'    u{i}["{escape(who)}"]' for i, who in enumerate(users)]
    for tail, head, part in edges:
        label = ""
        if part:
            label = f'|"{escape(part)}"|'
        lines.append(f"    {tail} -->{label} {head}")
    if shown:
        lines.append(
            "    classDef field"
            f" fill:{colours.anchor},stroke:{colours.arrows['hot']},color:{colours.ink}"
        )
        lines.append(f"    class {','.join(f'f{i}' for i in range(len(shown)))} field")
    return "\n".join(lines) + "\n"


def flow_dot(
    flow: DataFlow, *, fields: Iterable[str] | None = None, theme: ThemeName = "light"
) -> str:
    """The picture of a data flow as Graphviz text; the arguments are those of `flow_mermaid`."""
    shown, users, edges = _select(flow, fields)
    colours = theme_of(theme)
    font = f"fontname={quote(FONT)}, fontcolor={quote(colours.ink)}"
    lines = [
        "digraph {",
        f"    graph [rankdir=LR, bgcolor={quote(colours.paper)}]",
        f"    node [shape=box, color={quote(colours.border)}, {font}]",
    ]
    lines.append(f"    edge [color={quote(colours.ink)}, {font}]")
    look = f'style="rounded,filled", fillcolor={quote(colours.anchor)}'
    lines += [f"    f{i} [label={quote(name)}, {look}]" for i, name in enumerate(shown)]
    lines += [f"    u{i} [label={quote(who)}]" for i, who in enumerate(users)]
    for tail, head, part in edges:
        label = ""
        if part:
            label = f" [label={quote(part)}]"
        lines.append(f"    {tail} -> {head}{label}")
    return "\n".join([*lines, "}"]) + "\n"


Edge = tuple[str, str, str]  # from, to, and the part of the field if it is not all of it


def _select(
    flow: DataFlow, fields: Iterable[str] | None
) -> tuple[list[str], list[str], list[Edge]]:
    """The fields, those who use them, and the edges between them."""
    names = _choose_fields(flow, fields)
    uses: list[tuple[str, Use, bool]] = []
    for name in names:
        uses += [(name, use, True) for use in flow.writers.get(name, ())]
        uses += [(name, use, False) for use in flow.readers.get(name, ())]
    users = list(dict.fromkeys(use.who for _, use, _ in uses))
    edges = dict.fromkeys(
        _edge(f"f{names.index(name)}", f"u{users.index(use.who)}", name, use, writes)
        for name, use, writes in uses
    )
    return names, users, list(edges)


def _choose_fields(flow: DataFlow, fields: Iterable[str] | None) -> list[str]:
    if fields is None:
        return [name for name in flow.fields if name in flow.moving]
    if isinstance(fields, str):
        names = [fields]
    else:
        names = list(fields)
    for name in names:
        if name not in flow.fields:
            raise ConfigError(
                "nothing declares that it writes or reads"
                f" {name!r}{did_you_mean(name, flow.fields)}"
            )
    return names


def _edge(field: str, user: str, name: str, use: Use, writes: bool) -> Edge:
    part = ""
    if use.path != name:
        part = use.path
    if writes:
        return (user, field, part)
    return (field, user, part)
