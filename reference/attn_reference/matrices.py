"""The specification in matrices: scores, softmax over visible keys, weighted values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .problem import Array, Problem


@dataclass(frozen=True)
class Solution:
    """The result of a Problem and the quantities it came from; every axis 2 is the queries.

    o: (B, H, T, Dv), the result. p: (B, H, T, S), the weights, 0 at hidden keys. s: (B, H, T, S), the scores
    q k^T scale + bias, -inf at hidden keys. m: (B, H, T, 1), the row's largest score, 0 in empty rows. lse:
    (B, H, T), ln of the sum of e^s, -inf in empty rows. empty: (B, H, T, 1), boolean, no key is visible.
    o_low and p_low: what o and p lost in rounding to float64, 0 unless a longer precision was used.
    """

    o: Array
    p: Array
    s: Array
    m: Array
    lse: Array
    empty: Array
    o_low: Array
    p_low: Array

    def take_rows(self, rows: Any) -> Solution:
        """The same solution for the query rows `rows` (slice or 1-D integer array) alone."""
        return Solution(**{field.name: getattr(self, field.name)[:, :, rows] for field in fields(self)})


@np.errstate(all="ignore")  # NaN inputs, and ln 0 of empty rows, are answered by value
def solve(problem: Problem, rows: Any = None, real: type[np.floating[Any]] = np.float64) -> Solution:
    """Softmax attention as in section 1 of the specification.

    rows: 1-D integer array, the query rows to compute (None: all); they cost what they are, not what T is.
    real: the dtype of the arithmetic. NaN in a visible input reaches everything that depends on it; hidden
    keys and values have no influence, whatever they hold. Infinite visible values give NaN.
    """
    if rows is not None:
        problem = problem.take_rows(rows)
    q, k, v = (x.astype(real, copy=False) for x in (problem.q, problem.k, finite(problem.v)))
    visible = np.broadcast_to(problem.visible, problem.shape)
    empty = np.asarray(~visible.any(-1, keepdims=True))

    s = problem.scale * grouped(q, k.swapaxes(-1, -2)) + problem.bias
    s = np.where(visible, s, real(-np.inf))
    m = np.where(empty, real(0), s.max(-1, keepdims=True, initial=-np.inf))
    e = np.exp(s - m)
    total = e.sum(-1, keepdims=True)
    p = e / np.where(empty, real(1), total)
    o = np.where(tainted(problem), real(np.nan), grouped(p, v))
    lse = (m + np.log(total))[..., 0]

    s, m, lse = (x.astype(np.float64, copy=False) for x in (s, m, lse))
    (o, o_low), (p, p_low) = halves(o), halves(p)
    return Solution(o, p, s, m, lse, empty, o_low, p_low)


def grouped(x: Array, y: Array) -> Array:
    """The product (B, H, T, n) @ (B, Hkv, n, m) = (B, H, T, m), where query heads share key heads.

    The H / Hkv query heads of one key head are neighbours: laid end to end they are one taller matrix.
    """
    B, H, T, n = x.shape
    Hkv, m = y.shape[1], y.shape[3]
    return np.asarray((x.reshape(B, Hkv, H // Hkv * T, n) @ y).reshape(B, H, T, m))


def halves(x: Array) -> tuple[Array, Array]:
    """Each x rounded to float64, and what the rounding lost."""
    high = x.astype(np.float64, copy=False)
    return high, (x - high).astype(np.float64)


def finite(x: Array) -> Array:
    """NaN and inf, which would leak through a weight of 0, made 0; `tainted` says where they belong."""
    good = np.isfinite(x)
    return x if good.all() else np.where(good, x, 0.0)


def tainted(problem: Problem) -> Array:
    """True, (B, H, T, Dv) or broadcast, where some visible key's value is NaN or inf."""
    bad = ~np.isfinite(problem.v)
    if not bad.any():
        return np.zeros((1, 1, 1, 1), bool)
    visible = np.broadcast_to(problem.visible, problem.shape)
    return grouped(visible.astype(np.float64), bad.astype(np.float64)) > 0
