"""Plots: places of lines, marks and ticks in a drawing, which a template writes as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log, log2, log10

WIDTH, HEIGHT = 340, 230
"""Units of a chart, which are pixels where the screen is wide enough: as wide as a phone's page."""

LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 36
"""Room for ticks and their texts around what is drawn."""

APART = 30
"""Units between the texts of two ticks on the horizontal axis, at least."""


@dataclass(frozen=True)
class Tick:
    """A place on an axis, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point of a line; what: said of it to whoever points at it."""

    x: float
    y: float
    what: str


@dataclass(frozen=True)
class Line:
    """A line through marks. name: in the legend. tone: a class of the style sheet. low, high: each mark's range."""

    name: str
    tone: str
    marks: tuple[Mark, ...]
    ranges: tuple[tuple[float, float], ...] = ()

    @property
    def path(self) -> str:
        """The marks' places, as SVG has them."""
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)


@dataclass(frozen=True)
class Step:
    """A level that holds from one place to another."""

    start: float
    end: float
    y: float


@dataclass(frozen=True)
class Chart:
    """A drawing. description: what it shows, for those who do not see it. cuts: places of upright lines."""

    title: str
    description: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    steps: tuple[Step, ...] = ()
    cuts: tuple[float, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis between two positive values, from one place to another."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value; beyond the ends, the nearer of them."""
        span = log(self.high / self.low)
        share = log(value / self.low) / span if span else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def spread_out(values: Sequence[float], start: float, end: float, room: float = 0.06) -> Axis:
    """An axis that holds positive values, with a part of its length left free on either side."""
    low, high = min(values), max(values)
    free = (high / low) ** room if high > low else 1.5
    return Axis(low / free, high * free, start, end)


def ticks(axis: Axis, text: Callable[[float], str]) -> tuple[Tick, ...]:
    """Three to seven round values: powers of ten with their halves and fifths, or evenly where the axis is short."""
    first, last = floor(log10(axis.low)), ceil(log10(axis.high))
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [d * 10.0**e for e in range(first, last + 1) for d in digits]
        found = [value for value in found if axis.low <= value <= axis.high]
        if len(found) >= 3:
            return tuple(Tick(axis(value), text(value)) for value in found[:: ceil(len(found) / 7)])
    rough = (axis.high - axis.low) / 5
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    found = [step * n for n in range(ceil(axis.low / step), floor(axis.high / step) + 1)]
    return tuple(Tick(axis(value), text(value)) for value in found)


def doublings(values: Sequence[int], axis: Axis) -> tuple[Tick, ...]:
    """A tick at each size, as far as their texts have room."""
    found: list[Tick] = []
    for value in sorted(set(values)):
        if not found or axis(value) - found[-1].at >= APART:
            found.append(Tick(axis(value), short(value)))
    return tuple(found)


def short(value: int) -> str:
    """A size in few letters: 4k for 4096, 1000 for 1000."""
    exact = value >= 1024 and log2(value / 1024) == round(log2(value / 1024))
    return f"{value // 1024}k" if exact else str(value)
