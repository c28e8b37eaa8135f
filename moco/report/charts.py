"""Curves as SVG that is written by hand: small, sharp at any size, and read out by its title and description."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moco.report.markup import element, escape, escape_whole, show, table
from moco.report.runs import Point

WIDTH, HEIGHT = 480.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 14.0, 40.0
GLYPH = 8.4
"""Width of a letter of the text at an axis, on a phone, where it is largest."""
MOST_POINTS = 500
"""Points of a curve; of more, the lowest and the highest of each stretch are kept, so that no peak is lost."""
MARKED = 40
"""Curves of at most so many points have a mark on each."""
MOST_ROWS = 12
"""Rows of the table beneath a chart, for each curve."""
COLOURS = 8
"""Curves that have a colour of their own; each has its own dashes too."""


@dataclass(frozen=True)
class Curve:
    """A name and its points in order; a point without a figure is a gap."""

    name: str
    points: Sequence[Point]
    style: int = 0
    errors: Sequence[float | None] = ()
    """For each point, how far a bar reaches up and down from it; empty for none."""


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    value: float


@dataclass(frozen=True)
class Axes:
    """What stands at the axes, and how many digits figures have."""

    x: str
    y: str
    digits: int = 2
    from_zero: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    """Places on the x axis and what stands there, instead of round numbers."""


def chart(
    name: str, title: str, curves: Sequence[Curve], axes: Axes, levels: Sequence[Level] = (), note: str = ""
) -> str:
    """Draw curves, a legend if there are several, and the figures as a table; empty without a point."""
    curves = [curve for curve in curves if any(value is not None for _, value in curve.points)]
    if not curves:
        return ""
    legend = "".join(
        element("li", f'{_swatch(curve.style)}{escape(curve.name)}') for curve in curves
    )  # fmt: skip
    content = element("h3", escape(title), id=f"{name}-title") + _svg(name, title, curves, axes, levels)
    if len(curves) > 1:
        content += element("ul", legend, class_="legend")
    if note:
        content += element("p", escape_whole(note), class_="note")
    return element("figure", content + _figures(title, curves, axes), class_="chart")


@dataclass(frozen=True)
class _Plane:
    """Where figures lie in the drawing."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _svg(name: str, title: str, curves: Sequence[Curve], axes: Axes, levels: Sequence[Level]) -> str:
    values = [value + reach for curve in curves for value, reach in _ends(curve)]
    y_low, y_high, y_ticks = scale([*values, *(level.value for level in levels), *([0.0] if axes.from_zero else [])])
    x_low, x_high, x_ticks = scale([0.0, *(place for curve in curves for place, _ in curve.points)], tight=True)
    if axes.ticks:  # with room for the marks at both ends
        x_low, x_high, x_ticks = x_low - 0.06 * (x_high - x_low), x_high + 0.06 * (x_high - x_low), list(axes.ticks)
    plane = _Plane((x_low, x_high), (y_low, y_high))
    parts = [f'<title id="{name}-t">{escape(title)}</title>']
    parts.append(f'<desc id="{name}-d">{escape_whole(describe_curves(curves, axes, levels))}</desc>')
    for tick, text in y_ticks:
        parts.append(_horizontal("grid", plane.y(tick)) + _text(LEFT - 6, plane.y(tick) + 4, text, "end"))
    for tick, text in x_ticks:
        reach = GLYPH * len(text) / 2
        x = min(max(plane.x(tick), reach), WIDTH - reach)  # a long text at either end would be cut off
        parts.append(_text(x, HEIGHT - BOTTOM + 18, escape(text)))
    parts.append(_horizontal("axis", HEIGHT - BOTTOM))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, escape(axes.x)))
    for level in levels:
        y = plane.y(level.value)
        below = y < TOP + 16
        parts.append(
            _horizontal("level", y) + _text(WIDTH - RIGHT, y + (14 if below else -5), level.name, "end", "level")
        )
    parts += [_drawn(curve, plane, axes) for curve in curves]
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-labelledby="{name}-t {name}-d">{"".join(parts)}</svg>'
    )


def _drawn(curve: Curve, plane: _Plane, axes: Axes) -> str:
    """A line, and a mark on each point where they are few."""
    points, style = thin_points(curve.points), f"s{curve.style % COLOURS}"
    line = _path([(plane.x(place), None if value is None else plane.y(value)) for place, value in points])
    marks = ""
    for place, value in points if len(points) <= MARKED else ():
        if value is not None:
            said = f"{curve.name}: {show(value, axes.digits)} at {_placed(place, axes)} ({axes.x})"
            spot = f'class="mark {style}" cx="{plane.x(place):.1f}" cy="{plane.y(value):.1f}" r="3"'
            marks += f"<circle {spot}><title>{escape(said)}</title></circle>"
    for (place, value), reach in zip(curve.points, curve.errors, strict=False):
        if value is not None and reach:
            x, low, high = plane.x(place), plane.y(value - reach), plane.y(value + reach)
            marks += f'<path class="curve error {style}" d="M{x:.1f} {low:.1f}L{x:.1f} {high:.1f}"/>'
    return f'<path class="curve {style}" d="{line}"/>{marks}'


def _ends(curve: Curve) -> list[tuple[float, float]]:
    """Add to each point's figure the ends of its error bar."""
    there = [(value, 0.0) for _, value in curve.points if value is not None]
    bars = zip(curve.points, curve.errors, strict=False)
    return there + [
        (value, end) for (_, value), reach in bars if value is not None and reach for end in (-reach, reach)
    ]


def _horizontal(kind: str, y: float) -> str:
    return f'<line class="{kind}" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _placed(place: float, axes: Axes) -> str:
    """A step, or minutes, or what the tick there says."""
    named = dict(axes.ticks).get(place)
    if named is not None:
        return named
    return show(place, 0 if place == int(place) else 1)


def describe_curves(curves: Sequence[Curve], axes: Axes, levels: Sequence[Level]) -> str:
    """Describe what the curves do, in words."""
    sentences = []
    for curve in curves:
        values = [value for _, value in curve.points if value is not None]
        sentences.append(
            f"{curve.name}: {axes.y} from {show(values[0], axes.digits)} to {show(values[-1], axes.digits)}, "
            f"lowest {show(min(values), axes.digits)}, highest {show(max(values), axes.digits)}."
        )
    return " ".join([*sentences, *(f"For comparison, {level.name}." for level in levels)])


def scale(values: Sequence[float], *, tight: bool = False) -> tuple[float, float, list[tuple[float, str]]]:
    """Return the ends of an axis that holds the values, and its ticks at round numbers with their texts."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(low), abs(high)):
        low, high = (low, high + 1) if tight else (low - abs(low or 1) / 2, high + abs(high or 1) / 2)
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9) if tight else math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) if tight else math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 12) for i in range(first, last + 1)]
    return (low, high, _labelled(ticks, step)) if tight else (ticks[0], ticks[-1], _labelled(ticks, step))


def _labelled(ticks: Sequence[float], step: float) -> list[tuple[float, str]]:
    largest = max(map(abs, ticks), default=0.0)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= 10 * unit or (letter == "k" and largest >= 10_000):
            return [(tick, "0" if tick == 0 else f"{tick / unit:g}{letter}") for tick in ticks]
    if 0 < largest < 0.001:
        return [(tick, f"{tick:.1e}" if tick else "0") for tick in ticks]
    digits = max(0, min(6, -math.floor(math.log10(step) + 1e-9)))
    if round(step, digits) != round(step, 9):  # 2.5 and its kin
        digits += 1
    return [(tick, f"{tick:.{digits}f}".replace("-", "\u2212")) for tick in ticks]


def thin_points(points: Sequence[Point]) -> list[Point]:
    """Keep about MOST_POINTS of the points, in order: the first, the last, and the extremes of each stretch."""
    if len(points) <= MOST_POINTS:
        return list(points)
    stretch = math.ceil(2 * len(points) / MOST_POINTS)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), stretch):
        rows = [i for i in range(start, min(start + stretch, len(points))) if points[i][1] is not None]
        if rows:
            kept |= {min(rows, key=lambda i: points[i][1] or 0.0), max(rows, key=lambda i: points[i][1] or 0.0)}
        else:
            kept.add(start)
    return [points[i] for i in sorted(kept)]


def _path(points: Sequence[Point]) -> str:
    parts, pen_down = [], False
    for x, y in points:
        if y is not None:
            parts.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = y is not None
    return "".join(parts)


def _swatch(style: int) -> str:
    path = f'<path class="curve s{style % COLOURS}" d="M1 5H25"/>'
    return f'<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true">{path}</svg>'


def _figures(title: str, curves: Sequence[Curve], axes: Axes) -> str:
    """The figures of each curve, evenly chosen where there are many, the last among them."""
    rows = []
    for curve in curves:
        count = min(MOST_ROWS, len(curve.points))
        chosen = sorted({round(i * (len(curve.points) - 1) / max(1, count - 1)) for i in range(count)})
        for i in chosen:
            place, value = curve.points[i]
            cells = [escape(_placed(place, axes)), "not a number" if value is None else show(value, axes.digits)]
            rows.append([escape(curve.name), *cells])
    body = table(["curve", escape(axes.x), escape(axes.y)], rows, label=f"{title}: figures", numbers=range(1, 3))
    return element("details", element("summary", "figures as a table") + body)
