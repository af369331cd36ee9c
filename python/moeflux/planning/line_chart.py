"""A line chart as SVG text: axes, lines, a legend. No dependency, no numbers of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..errors import IoError

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 200, 40, 56
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


@dataclass(frozen=True)
class Line:
    """Points (x, y) in order of x; `dashed` for what is no measurement and no prediction."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def _ticks(top: float) -> list[float]:
    """From 0 to past `top` in at most six steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** (math.floor(math.log10(top)) - 1)
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor * 6 >= top)
    return [step * index for index in range(math.ceil(top / step - 1e-9) + 1)]


def svg(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """The chart; both axes begin at 0.

    Args:
        title: above the chart.
        x_name: below the horizontal axis.
        y_name: beside the vertical axis.
        lines: at least one, each with at least one point.
    """
    x_ticks = _ticks(max(x for line in lines for x, _ in line.points) or 1)
    y_ticks = _ticks(max(y for line in lines for _, y in line.points) or 1)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (LEFT + (right - LEFT) * x / x_ticks[-1],
                bottom - (bottom - TOP) * y / y_ticks[-1])  # fmt: skip

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">'
        f"{escape(x_name)}</text>",
        f'<text transform="translate(18 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>",
    ]
    for tick in x_ticks:
        x, _ = place(tick, 0)
        out.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#eee"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in y_ticks:
        _, y = place(0, tick)
        out.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#eee"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333"/>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        places = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"'
                   f"{dash}/>")  # fmt: skip
        if not line.dashed:
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
                    for x, y in places]  # fmt: skip
        y = TOP + 20 * number
        out.append(f'<path d="M{right + 14} {y}h24" stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(f'<text x="{right + 44}" y="{y + 4}">{escape(line.name)}</text>')
    return "\n".join([*out, "</svg>", ""])


def require_writable(path: Path) -> None:
    """Leaves the file as it is, or absent; raises IoError where a chart cannot be written."""
    with _reported(path):
        try:
            path.open("xb").close()
        except FileExistsError:
            path.open("ab").close()
        else:
            path.unlink()


def write_svg(path: Path, text: str) -> None:
    """Writes a chart; raises IoError where that cannot be."""
    with _reported(path):
        path.write_text(text, encoding="utf-8")


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IoError(f"[line_chart] cannot write: {error.strerror} ({path})") from error
