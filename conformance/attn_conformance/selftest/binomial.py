"""Exact limits of a probability, from how often something happened."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, lgamma, log, log1p


def upper_limit(happened: int, of: int, level: float = 0.05) -> float:
    """The largest probability at which so few happen with a chance of at least `level` (Clopper and Pearson)."""
    if happened >= of:
        return 1.0
    return _crossing(lambda p: at_most(happened, of, p) >= level)


def lower_limit(happened: int, of: int, level: float = 0.05) -> float:
    """The smallest probability at which so many happen with a chance of at least `level`."""
    return 1.0 - upper_limit(of - happened, of, level)


def at_most(happened: int, of: int, p: float) -> float:
    """The chance that so few happen, each with probability 0 < p < 1."""

    def term(k: int) -> float:
        choices = lgamma(of + 1) - lgamma(k + 1) - lgamma(of - k + 1)
        return exp(choices + k * log(p) + (of - k) * log1p(-p))

    return sum(map(term, range(happened + 1)))


def _crossing(holds: Callable[[float], bool]) -> float:
    """Up to where something holds that holds near 0 and not near 1."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high
