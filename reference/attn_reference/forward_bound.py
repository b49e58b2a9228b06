"""How far a correct module may lie from the reference: a bound for every element of its result.

Each of the four projections errs by the roundings of its sums and of its stored result. Errors of q and k perturb
the logarithms of the weights, those of v the values; seen from the result y, each head is a kernel whose values are
u = W v, W being the head's columns of the out projection, and the kernel's bound does the rest: errors that a
row's channels have in common, as those of the weights, are not mistaken for independent ones.

Symbols as in `bound`; N is n_state, us the roundoff of what is stored between projections and attention, e the
error of an array, u the values that y sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .bound import (
    BLOCK,
    ROUNDING,
    SAME,
    SYSTEMATIC,
    Inexact,
    Roundings,
    error_parts,
    largest,
    roundings,
    smallest_normal,
    unit_roundoff,
)
from .claims import Arithmetic
from .forward import ForwardProblem, ForwardSolution, merge_heads, split_heads
from .matrices import Solution, finite, grouped
from .problem import Array, Problem


@dataclass(frozen=True)
class Storing:
    """What rounding a number to the dtype it is stored in costs.

    us: relative; 0 where it is stored as it was accumulated. eta: of numbers below normal, the smallest normal
    number. largest: beyond it numbers overflow.
    """

    us: float
    eta: float
    normal: float
    largest: float


def storing(dtype: str, r: Roundings) -> Storing:
    """How arrays of `dtype` between projections and attention may be rounded."""
    low = dtype in ("float16", "bfloat16")
    eta = 2.0**-25 if dtype == "float16" else r.eta_p  # float16 keeps subnormals, others may flush them
    return Storing(unit_roundoff(dtype) if low else 0.0, eta, smallest_normal(dtype), largest(dtype))


@dataclass(frozen=True)
class Setting:
    """The dtype that is computed in, and what its arithmetic allows."""

    dtype: str
    r: Roundings
    store: Storing


@dataclass(frozen=True)
class Error:
    """How far an array may err: the worst, and several standard sizes, of elements that err independently."""

    worst: Array
    probable: Array

    def __add__(self, other: Error) -> Error:
        return Error(self.worst + other.worst, self.probable + other.probable)

    def times(self, factor: Any) -> Error:
        """The error of `factor` times the array."""
        return Error(self.worst * factor, self.probable * factor)

    def plus(self, error: Array) -> Error:
        """With another error, of either kind."""
        return Error(self.worst + error, self.probable + error)


@np.errstate(all="ignore")  # as in `bound`
def forward_bound(
    problem: ForwardProblem, solution: ForwardSolution, dtype: str, arithmetic: Arithmetic = "fused"
) -> Array:
    """The error allowed before the last rounding, for each element of solution.y: (B, T, N), float64.

    dtype: that of the inputs, which count as exact. q, k, v and the heads' outputs may each be stored in it, or
    kept as accumulated. inf in rows where one of them may overflow. A projection that only moves numbers and
    scales them by powers of two makes no error; where all four do, the bound is the kernel's.
    """
    r = roundings(dtype, arithmetic)
    store = storing(dtype, r)
    core, attention = solution.core, solution.attention
    errors = head_errors(problem, core, r, store)
    overflows = {
        name: np.abs(array) + errors[name].worst > store.largest
        for name, array in (("query", core.q), ("key", core.k), ("value", core.v))
    }

    B, H, T, S = core.shape
    N = problem.x.shape[2]
    step = max(1, BLOCK // max(1, B * H * max(S, N)))
    result = np.zeros((B, T, N))
    for start in range(0, T, step):
        rows = np.arange(start, min(start + step, T))
        part = core.take_rows(rows)
        query = Error(errors["query"].worst[:, :, rows], errors["query"].probable[:, :, rows])
        result[:, rows] = _bound(
            problem, part, attention.take_rows(rows), errors | {"query": query}, r, store
        )
    keys = np.any(overflows["key"] | overflows["value"], axis=-1)[:, :, None, :]
    lost = core.visible & (keys | np.any(overflows["query"], axis=-1, keepdims=True))
    return np.where(np.any(lost, axis=(1, 3))[..., None], np.inf, result)


def head_errors(problem: ForwardProblem, core: Problem, r: Roundings, store: Storing) -> dict[str, Error]:
    """The errors of q, k and v as attention gets them: name of the projection to (B, H, T or S, D)."""
    errors = {}
    for name, heads in (("query", core.q), ("key", core.k), ("value", core.v)):
        source, weight, bias = problem.source(name), problem.weights[name], problem.biases[name]
        error = projection_error(weight, bias, np.abs(source), np.abs(merge_heads(heads)), r, store)
        errors[name] = Error(*(split_heads(finite(e), problem.n_head) for e in (error.worst, error.probable)))
    return errors


def _bound(
    problem: ForwardProblem,
    core: Problem,
    attention: Solution,
    errors: dict[str, Error],
    r: Roundings,
    store: Storing,
) -> Array:
    W = problem.weights["out"].T.reshape(1, problem.n_head, core.v.shape[3], -1)
    W_abs = np.abs(W)
    inexact, e_v = inexact_heads(core, errors), errors["value"]
    inexact_u = replace(inexact, values=e_v.worst @ W_abs, values_probable=np.sqrt(e_v.probable**2 @ (W * W)))
    own = error_parts(core, attention, r, inexact)
    heads = error_parts(replace(core, v=core.v @ W), replace(attention, o=attention.o @ W), r, inexact_u)

    o = np.where(attention.empty, 0.0, np.abs(attention.o))
    many = np.sqrt(alike(merge_heads(o), -1))[:, None]
    moved = moves(problem.weights["out"], problem.biases["out"])

    # Sums over p v round channel by channel, all else is seen from the result; so are sums where no more than one
    # channel gets there.
    rest_worst = (1.01 * (own.sums_worst + own.values) + own.eta) @ W_abs
    rest_probable = (own.values + own.eta) @ W_abs + SYSTEMATIC * np.minimum(
        many * np.sqrt(own.sums_probable**2 @ (W * W)), own.sums_probable @ W_abs
    )
    worst = np.where(attention.empty, 0.0, heads.worst + np.where(moved, 0.0, rest_worst))
    probable = np.where(attention.empty, 0.0, heads.probable + np.where(moved, 0.0, rest_probable))

    # Heads err independently unless they are alike. An error that is no longer small has no variance to speak of,
    # and nothing averages out.
    probable = np.minimum(worst, probable)
    decided = np.all(heads.decided | attention.empty, axis=1)
    in_squares = np.minimum(many[:, 0] * np.sqrt((probable**2).sum(1)), probable.sum(1))
    worst, probable = worst.sum(1), np.where(decided, in_squares, probable.sum(1))

    # The heads' outputs, stored or not. Stored numbers that are only moved were rounded once and are not again, unless
    # they are tiny and grow.
    reach = o + np.where(attention.empty, 0.0, own.worst)
    y = np.abs((attention.o @ W).sum(1))  # where they are only moved; a bias would be added to them
    us = np.where(moved & (y >= store.normal), 0.0, store.us)
    stored_worst = us * (reach @ W_abs).sum(1)
    stored_probable = ROUNDING / math.sqrt(3) * us * many[:, 0] * np.sqrt((o * o @ (W * W)).sum(1))
    flushed = (np.where((o > 0) & (o < store.normal), store.eta, 0.0) @ W_abs).sum(1)

    error = sum_error(problem.weights["out"], problem.biases["out"], (o @ W_abs).sum(1), r)
    worst = worst + stored_worst + 1.01 * error.worst + flushed
    stored_probable = np.minimum(stored_probable, stored_worst)
    probable = np.where(decided, np.hypot(probable, stored_probable), probable + stored_probable)
    probable = probable + error.probable + flushed
    overflow = np.any(reach > store.largest, axis=(1, 3))[..., None]
    return np.where(overflow, np.inf, np.minimum(worst, probable))


def inexact_heads(core: Problem, errors: dict[str, Error]) -> Inexact:
    """What the errors of q, k and v do to the scores and values of a kernel; its scale is above 0."""
    q, k, v = np.abs(core.q), np.abs(finite(core.k)), core.v
    e_q, e_k, e_v = errors["query"], errors["key"], errors["value"]
    worst = core.scale * (
        grouped(e_q.worst, (k + e_k.worst).swapaxes(-1, -2)) + grouped(q, e_k.worst.swapaxes(-1, -2))
    )
    in_squares = alike(q, -1) * grouped(e_q.probable**2, (k * k).swapaxes(-1, -2)) + grouped(
        q * q, (alike(k, -1) * e_k.probable**2).swapaxes(-1, -2)
    )
    probable = np.minimum(core.scale * np.sqrt(in_squares), worst)
    seen = np.any(core.visible, axis=(1, 2))[:, None, :, None]  # keys that no query sees make no error
    B, H, S, D = v.shape
    many = alike(np.where(seen, v, 0.0).reshape(B, H, 1, S * D), -1)
    return Inexact(worst, probable, e_v.worst, e_v.probable, many)


def projection_error(
    weight: Array, bias: Array, source: Array, result: Array, r: Roundings, store: Storing
) -> Error:
    """The error of a projection's stored result; source and result: absolute values of what goes in and comes out."""
    terms = source @ np.abs(weight).T
    error = sum_error(weight, bias, terms, r)
    us = np.where(moves(weight, bias), 0.0, store.us)
    flushed = np.where((result < store.normal) & (terms > 0), store.eta, 0.0)
    worst = error.worst + us * (result + error.worst) + flushed
    return Error(worst, error.probable + ROUNDING / math.sqrt(3) * us * result + flushed)


def sum_error(weight: Array, bias: Array, terms: Array, r: Roundings) -> Error:
    """The error of x W^T + b before it is stored; terms: |x| |W|^T."""
    moved = moves(weight, bias)
    N = weight.shape[1]
    # The sum in any order, and the bias. Where scores are stored, so are partial sums and the sum without bias.
    total = r.ua * (terms + np.abs(bias))
    worst = (N + 3) * total + 3 * r.us * terms
    probable = SYSTEMATIC * (math.sqrt(N + 3) * total + 0.5 * r.us * terms)
    factors = np.where(moved, 1, 2) * r.ut * terms  # powers of two are not rounded
    alone = moved | (terms == 0)  # one term at most, or the bias alone
    return Error(np.where(alone, 0.0, worst) + factors, np.where(alone, 0.0, probable) + factors)


def moves(weight: Array, bias: Array) -> Array:
    """Which outputs of a projection, (N,), are one of its inputs times a power of two, or 0."""
    mantissa = np.abs(np.frexp(weight)[0])
    simple = ((mantissa == 0) | (mantissa == 0.5)).all(1) & (np.count_nonzero(weight, 1) <= 1)
    return np.asarray(simple & (bias == 0))


def alike(x: Array, axis: int) -> Array:
    """How many numbers along an axis, which is kept, are equal but for their sign: at least 1.

    Equal numbers round alike, so that m of them count as one error m times as large: their errors' squares add
    up to at most m times the sum of squares. Zeros make no error and count once.
    """
    x = np.sort(np.abs(x).swapaxes(axis, -1), -1)
    i = np.arange(x.shape[-1])
    first = np.ones(x.shape, bool)
    first[..., 1:] = ~(x[..., 1:] - x[..., :-1] <= SAME * x[..., :-1]) | (x[..., 1:] == 0)
    run = i - np.maximum.accumulate(np.where(first, i, 0), -1) + 1
    return np.asarray(run.max(-1, keepdims=True, initial=1).swapaxes(axis, -1))
