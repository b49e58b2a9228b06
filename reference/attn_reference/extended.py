"""The same attention to more digits than float64 has, so that float64 implementations can be judged.

Where the platform's long double is longer (64 bits on x86 Linux) it is used, elsewhere double-double
arithmetic: numbers as unevaluated sums of two float64, about 104 bits, from error-free transformations
(T. J. Dekker, Numerische Mathematik 18, 1971; D. E. Knuth, TAOCP 2, section 4.2.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeVar

import numpy as np

from .matrices import Solution, finite, solve, tainted
from .problem import Array, Problem

LONGDOUBLE = bool(np.finfo(np.longdouble).eps < 2.0**-60)  # 80-bit: 2^-63; some platforms: float64 again


def solve_extended(problem: Problem, rows: Any = None, use_longdouble: bool = LONGDOUBLE) -> Solution:
    """As `solve`, with o + o_low and p + p_low good to at least 11 bits more than float64; the rest is float64.

    use_longdouble: False takes double-double arithmetic, exact enough as long as no product of inputs exceeds
    1e290 or (being not 0) falls below 1e-290.
    """
    if use_longdouble:
        return solve(problem, rows, np.longdouble)
    return _solve_double_double(problem if rows is None else problem.take_rows(rows))


@dataclass(frozen=True)
class DoubleDouble:
    """Arrays of numbers high + low, high being the sum rounded to float64; results are good to 2^-102.

    Operators, `reshape`, `swapaxes` and `sum` are those of NumPy arrays: one text serves both.
    """

    high: Array
    low: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy's."""
        return self.high.shape

    def __add__(self, other: DoubleDouble) -> DoubleDouble:
        high, error = two_sum(self.high, other.high)
        low, lower = two_sum(self.low, other.low)
        high, error = fast_two_sum(high, error + low)
        return DoubleDouble(*fast_two_sum(high, error + lower))

    def __sub__(self, other: DoubleDouble) -> DoubleDouble:
        return self + DoubleDouble(-other.high, -other.low)

    def __mul__(self, other: DoubleDouble) -> DoubleDouble:
        high, error = two_prod(self.high, other.high)
        return DoubleDouble(*fast_two_sum(high, error + (self.high * other.low + self.low * other.high)))

    def __truediv__(self, other: DoubleDouble) -> DoubleDouble:
        first = self.high / other.high
        rest = self + other * exactly(-first)
        second = rest.high / other.high
        rest = rest + other * exactly(-second)
        return DoubleDouble(*fast_two_sum(first, second)) + exactly(rest.high / other.high)

    def __matmul__(self, other: DoubleDouble) -> DoubleDouble:
        """The product of the last two axes, one term of the inner product after the other."""
        outer = np.broadcast_shapes(self.shape[:-2], other.shape[:-2])
        total = exactly(np.zeros((*outer, self.shape[-2], other.shape[-1])))
        for i in range(self.shape[-1]):
            total = total + self[..., :, i, None] * other[..., i, None, :]
        return total

    def __getitem__(self, index: Any) -> DoubleDouble:
        return DoubleDouble(self.high[index], self.low[index])

    def reshape(self, *shape: int) -> DoubleDouble:
        """As NumPy's."""
        return DoubleDouble(self.high.reshape(shape), self.low.reshape(shape))

    def swapaxes(self, one: int, other: int) -> DoubleDouble:
        """As NumPy's."""
        return DoubleDouble(self.high.swapaxes(one, other), self.low.swapaxes(one, other))

    def sum(self, axis: int, keepdims: Literal[True]) -> DoubleDouble:
        """As NumPy's, one term after the other."""
        total = exactly(np.zeros_like(self.high.sum(axis, keepdims=True)))
        for i in range(self.shape[axis]):
            total = total + DoubleDouble(self.high.take([i], axis), self.low.take([i], axis))
        return total


Real = TypeVar("Real", Array, DoubleDouble)
"""What the closed forms are written for."""


def exactly(x: Any) -> DoubleDouble:
    """The float64 numbers x as they are."""
    high = np.asarray(x, np.float64)
    return DoubleDouble(high, np.zeros_like(high))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum a + b without error: the rounded sum and what the rounding lost (Knuth)."""
    high = a + b
    b_seen = high - a
    return high, (a - (high - b_seen)) + (b - b_seen)


def fast_two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """As two_sum, for abs(a) >= abs(b) or a = 0 (Dekker)."""
    high = a + b
    return high, b - (high - a)


def two_prod(a: Array, b: Array) -> tuple[Array, Array]:
    """The product a * b without error: the rounded product and what the rounding lost (Dekker, Veltkamp)."""
    high = a * b
    a1, a2 = _halves(a)
    b1, b2 = _halves(b)
    return high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(a: Array) -> tuple[Array, Array]:
    spread = 134217729.0 * a  # 2^27 + 1: both halves of a 53-bit number fit in 26 bits, so products are exact
    first = spread - (spread - a)
    return first, a - first


def _constant(value: Fraction) -> DoubleDouble:
    high = float(value)
    return DoubleDouble(np.array(high), np.array(float(value - Fraction(high))))


LN2 = _constant(Fraction("0.69314718055994530941723212145817656807550013436025525412068"))
INVERSE_FACTORIALS = [_constant(Fraction(1, math.factorial(n))) for n in range(24)]  # (ln2/2)^24/24! < 2^-115


def exp(x: DoubleDouble) -> DoubleDouble:
    """e^x for x <= 1, to 2^-95 for x >= -660 (below, float64 runs out of exponents); below -1000 it is 0."""
    x = DoubleDouble(np.maximum(x.high, -1000.0), np.where(x.high < -1000.0, 0.0, x.low))
    doublings = np.rint(x.high / math.log(2))
    x = x + exactly(-doublings) * LN2  # now abs(x) <= ln2/2, up to rounding, and the series is short
    series = INVERSE_FACTORIALS[-1]
    for coefficient in INVERSE_FACTORIALS[-2::-1]:
        series = series * x + coefficient
    exponent = doublings.astype(np.int32)
    return DoubleDouble(np.ldexp(series.high, exponent), np.ldexp(series.low, exponent))


@np.errstate(all="ignore")  # as in `solve`
def _solve_double_double(problem: Problem) -> Solution:
    g = problem.q.shape[1] // problem.k.shape[1]
    q, k, v = exactly(problem.q), exactly(np.repeat(problem.k, g, 1)), np.repeat(finite(problem.v), g, 1)
    visible = np.broadcast_to(problem.visible, problem.shape)
    empty = np.asarray(~visible.any(-1, keepdims=True))

    s = (q @ k.swapaxes(-1, -2)) * exactly(problem.scale) + exactly(problem.bias)
    high = np.where(visible, s.high, -np.inf)
    # The weights do not depend on the number subtracted: the float64 maximum is near enough to the true one.
    m = np.where(empty, 0.0, high.max(-1, keepdims=True, initial=-np.inf))
    x = s + exactly(-m)
    e = exp(DoubleDouble(np.where(visible, x.high, -np.inf), x.low))
    # A column of ones beside the values sums the weights on the way.
    sums = e @ exactly(np.concatenate([v, np.ones_like(v[..., :1])], -1))
    lse = (m + np.log(sums.high[..., -1:]))[..., 0]
    total = DoubleDouble(np.where(empty, 1.0, sums.high[..., -1:]), sums.low[..., -1:])
    o, p = sums[..., :-1] / total, e / total
    o_high = np.where(tainted(problem), np.nan, o.high)
    return Solution(o_high, p.high, high, m, lse, empty, o.low, p.low)
