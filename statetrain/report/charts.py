"""Curves, bars and strips as SVG, drawn with the colours of the page around them."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence

from statetrain.lifecycle.text import plain

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 380.0, 210.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 26.0, 32.0  # around the area of the curves
_TICKS = 4
_MARKED = 60  # points of a curve that are marked one by one, at most
_MOST = 760  # points of a curve: two for each dot that its width has on most screens


def curves(title: str, x: str, lines: Mapping[str, Points]) -> str:
    """Curves over one axis, a colour each.

    Args:
        title: what is above them.
        x: what the horizontal axis counts.
        lines: by name, points in order; those that are not finite are left as gaps. Of many, some
            are drawn.
    """
    lines = {name: thin(points) for name, points in lines.items()}
    finite = [point for points in lines.values() for point in points if math.isfinite(point[1])]
    xs, ys = [p[0] for p in finite] or [0.0], [p[1] for p in finite] or [0.0]
    across, up = (
        _Scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT),
        _Scale(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP),
    )
    parts = [
        (
            f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}"'
            f' role="img"><title>{_safe(title)}</title>'
        )
    ]
    parts.append(_text(title, _LEFT, 15, "head"))
    for value in up.ticks():
        parts.append(f'<path class="grid" d="M{_LEFT:g} {up(value):.1f}H{_WIDTH - _RIGHT:g}"/>')
        parts.append(_text(f"{value:.4g}", _LEFT - 6, up(value) + 3.5, "tick end"))
    parts += [
        _text(f"{value:g}", across(value), _HEIGHT - _BOTTOM + 15, "tick middle")
        for value in across.ticks(whole=True)
    ]
    parts.append(_text(x, _WIDTH - _RIGHT, _HEIGHT - 3, "tick end"))
    for number, (name, points) in enumerate(lines.items()):
        parts += _curve(points, across, up, f"c{number % 6}")
        end = _WIDTH - _RIGHT - 70.0 * (len(lines) - 1 - number)
        parts.append(_text(name, end, 15, f"tick end c{number % 6}"))
    return "".join(parts) + "</svg>"


def _curve(points: Points, across: _Scale, up: _Scale, colour: str) -> Iterator[str]:
    """One curve, in as many pieces as gaps make; with its points if they are few."""
    for piece in _pieces(points):
        at = [(across(x), up(y)) for x, y in piece]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        yield f'<polyline class="line {colour}" points="{line}"/>'
        if len(points) <= _MARKED:
            for x, y in at:
                yield f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>'


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Bars below each other.

    Args:
        rows: a name, a share from 0 to 1, and the text next to it.
    """
    longest = max((share for _, share, _ in rows), default=0.0) or 1.0
    cells = (
        f'<tr><th scope="row">{_safe(name)}</th><td class="bar"><span'
        f' style="width:{100 * share / longest:.1f}%"></span></td><td>{_safe(said)}</td></tr>'
        for name, share, said in rows
    )
    return f'<table class="bars">{"".join(cells)}</table>'


def strips(rows: Sequence[tuple[str, Points]], begin: float, end: float, x: str) -> str:
    """One line each of marks along one axis.

    Args:
        rows: a name, and marks as `(where, how strong)`, how strong from 0 to 1.
        begin: where the axis begins.
        end: where it ends.
        x: what it counts.
    """
    left, step = 210.0, 20.0
    across = _Scale(begin, end, left, 760.0)
    height = step * len(rows) + 24.0
    parts = [
        (
            f'<svg class="strips" viewBox="0 0 780 {height:g}" role="img"><title>decisions of'
            " guards</title>"
        )
    ]
    for number, (name, marks) in enumerate(rows):
        middle = step * number + 12.0
        if len(name) <= 34:
            shown = name
        else:
            shown = f"{name[:33]}\N{HORIZONTAL ELLIPSIS}"
        parts.append(
            f"<g><title>{_safe(name)}</title>{_text(shown, left - 10, middle + 4, 'tick end')}</g>"
        )
        parts.append(f'<path class="grid" d="M{left:g} {middle:g}H760"/>')
        parts += [
            f'<path class="mark" style="opacity:{0.15 + 0.85 * strong:.2f}" d="M{across(at):.1f}'
            f' {middle - 6:g}v12"/>'
            for at, strong in marks
        ]
    parts += [
        _text(f"{value:g}", across(value), height - 2, "tick middle")
        for value in across.ticks(whole=True)
    ]
    parts.append(_text(x, 0, height - 2, "tick"))
    return "".join(parts) + "</svg>"


def thin(points: Points, most: int = _MOST) -> Points:
    """At most so many of the points: of each part, the lowest and the highest, in order."""
    if len(points) <= most:
        return points
    kept: list[tuple[float, float]] = []
    parts = most // 2
    for part in range(parts):
        some = points[part * len(points) // parts : (part + 1) * len(points) // parts]
        finite = [point for point in some if math.isfinite(point[1])]
        if finite:
            chosen = [min(finite, key=_height), max(finite, key=_height)]
        else:
            chosen = [some[0]]
        kept += sorted(dict.fromkeys(chosen))
    return kept


def _height(point: tuple[float, float]) -> float:
    return point[1]


class _Scale:
    """From numbers to places."""

    def __init__(self, least: float, most: float, begin: float, end: float) -> None:
        if least == most:
            least, most = least - (abs(least) * 0.1 or 1.0), most + (abs(most) * 0.1 or 1.0)
        self.least, self.most, self.begin, self.end = least, most, begin, end

    def __call__(self, value: float) -> float:
        return self.begin + (value - self.least) / (self.most - self.least) * (
            self.end - self.begin
        )

    def ticks(self, whole: bool = False) -> Iterator[float]:
        """Round numbers between both ends."""
        raw = (self.most - self.least) / _TICKS
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= raw * 0.999)
        if whole:
            step = max(step, 1.0)
        n = math.ceil(self.least / step - 1e-9)
        while n * step <= self.most * (1 + 1e-12) + 1e-300:
            yield n * step + 0.0
            n += 1


def _pieces(points: Points) -> Iterator[list[tuple[float, float]]]:
    """The points without gaps, piece by piece."""
    piece: list[tuple[float, float]] = []
    for point in points:
        if math.isfinite(point[1]):
            piece.append(point)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _text(text: str, x: float, y: float, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return html.escape(plain(text))
