"""Wrong scales, and weights that are no softmax over the keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from attn_conformance.cases.values import STORAGE
from attn_conformance.causes.cause import Array, Cause, Change, Recognition, Situation, changed, from_parts
from attn_conformance.judge import ask
from attn_reference import Problem, Solution, limit, lse_bound, solve, unit_roundoff


def triangle(p: Problem, d: int | None = None) -> Array:
    """(1, 1, T, S), True where j <= i + d; d is S - T unless given."""
    T, S = p.shape[2:]
    return np.tri(T, S, S - T if d is None else d, dtype=bool)[None, None]


def _scaled(name: str, clause: str, scale: Callable[[Problem], float]) -> Cause:
    def change(p: Problem) -> Problem:
        return replace(p, scale=scale(p))

    return changed(name, clause, change)


def _root(p: Problem) -> float:
    return 1 / math.sqrt(max(p.q.shape[3], 1))


def _two_to_the(p: Problem) -> Problem:
    return replace(p, scale=p.scale * math.log(2), bias=p.bias * math.log(2))


def _even(p: Problem) -> Problem:
    return replace(p, scale=0.0, bias=0 * p.bias)


def _tail_cut(p: Problem) -> Problem | None:
    D = p.q.shape[3]
    if D <= 8 or D % 8 == 0:
        return None
    q = p.q.copy()
    q[..., D // 8 * 8 :] = 0
    return replace(p, q=q)


def _one_more(p: Problem, count: int = 1) -> Problem:
    """With `count` more keys of score and value 0, which every row sees that sees any."""
    B, Hkv, _, D = p.k.shape
    visible = np.broadcast_to(p.visible, p.shape)
    seen = visible.any(-1, keepdims=True)
    bias = np.broadcast_to(p.bias, p.shape)
    return replace(
        p,
        k=np.concatenate([p.k, np.zeros((B, Hkv, count, D))], 2),
        v=np.concatenate([p.v, np.zeros((B, Hkv, count, p.v.shape[3]))], 2),
        visible=np.concatenate([visible, np.repeat(seen, count, 3)], 3),
        bias=np.concatenate([bias, np.zeros((*bias.shape[:3], count))], 3),
    )


def _padded(tile: int) -> Change:
    def change(p: Problem) -> Problem | None:
        count = -p.shape[3] % tile
        return _one_more(p, count) if count else None

    return change


def _rounded(dtype: str, names: tuple[str, ...]) -> Change:
    @np.errstate(over="ignore")
    def change(p: Problem) -> Problem:
        arrays = {name: getattr(p, name).astype(STORAGE[dtype]).astype(np.float64) for name in names}
        return replace(p, **arrays)

    return change


MOST_WORK = 2**20
"""Largest B H T S T, the work of finding the bounds of all weights, for which these are looked at."""


def over_queries(situation: Situation) -> float | None:
    """Recognises weights that sum to 1 over the queries that see a key."""
    p = situation.problem
    if not isinstance(p, Problem):
        return None
    B, H, T, S = p.shape
    if B * H * T * S * T > MOST_WORK:
        return None
    group = H // p.k.shape[1]
    # Keys that attend to queries, whose values are unit vectors: their output is the weights, with a bound of its own.
    turned = Problem(
        np.repeat(p.k, group, 1),
        p.q,
        np.broadcast_to(np.eye(T), (B, H, T, T)),
        p.visible.swapaxes(2, 3),
        p.bias.swapaxes(2, 3),
        p.scale,
    )
    weights, right = ask(turned, situation.right.dtype, situation.right.arithmetic), situation.right
    v = np.repeat(p.v, group, 1)
    value = weights.value.swapaxes(2, 3) @ v
    size = weights.value.swapaxes(2, 3) @ np.abs(v)
    # Products and sums are good to the roundoff of the inputs: rounding the weights is in their bound.
    error = weights.limit.swapaxes(2, 3) @ np.abs(v) + (S + 2) * unit_roundoff(right.dtype) * size
    return from_parts(situation, value, np.zeros(()), error)


def _weighed(total: Callable[[Situation], tuple[Array, Array]]) -> Recognition:
    """Recognises the right output times e^x; total: x and its error, (B, H, T, 1)."""

    @np.errstate(over="ignore", invalid="ignore")
    def distance(situation: Situation) -> float | None:
        right = situation.right
        if not isinstance(situation.problem, Problem):
            return None
        x, error = total(situation)
        factor, spread = np.exp(x), np.expm1(error)
        value = factor * right.value
        most = limit(value, factor * (1 + spread) * right.limit + spread * np.abs(value), right.dtype)
        return from_parts(situation, value, np.zeros(()), most)

    return distance


def _lse_error(situation: Situation, p: Problem, solution: Solution) -> Array:
    return lse_bound(p, solution, situation.right.dtype, situation.right.arithmetic)[..., None]


def _unnormalised(situation: Situation) -> tuple[Array, Array]:
    solution = situation.solution
    x = np.where(solution.empty, 0.0, solution.lse[..., None] - solution.m)
    return x, _lse_error(situation, situation.core, solution)


def _against_sum_of(other: Callable[[Problem], Problem]) -> Callable[[Situation], tuple[Array, Array]]:
    """The logarithm of the sum of weights over that of another problem."""

    def total(situation: Situation) -> tuple[Array, Array]:
        solution, posed = situation.solution, other(situation.core)
        whole = solve(posed)
        x = np.where(solution.empty, 0.0, (solution.lse - whole.lse)[..., None])
        return x, _lse_error(situation, situation.core, solution) + _lse_error(situation, posed, whole)

    return total


def _unmasked(p: Problem) -> Problem:
    return replace(p, visible=np.ones((1, 1, 1, 1), bool))


def _unbiased(p: Problem) -> Problem:
    return replace(p, bias=0 * p.bias)


def _against(name: str, whose: str, top: Callable[[Situation], Array]) -> Cause:
    """Weights e^(s - top), where `top` is not the row's own maximum: they vanish far below it, and overflow above."""

    @np.errstate(invalid="ignore")
    def distance(situation: Situation) -> float | None:
        right, solution = situation.right, situation.solution
        if not isinstance(situation.problem, Problem):
            return None
        # Below `least` e^x is 0 in the accumulators' dtype, above `most` infinite; near them digits get lost.
        least, most = (-745.2, 709.8) if right.dtype == "float64" else (-104.0, 88.8)
        x = np.where(solution.empty, 0.0, solution.m - top(situation))
        vague = 20.0 + math.log(situation.core.shape[3])
        gone, burst = x < least - vague, x > most
        unclear = (~gone & (x < least + vague + 10)) | (~burst & (x > most - vague))
        value = np.where(gone, 0.0, np.where(burst, np.nan, right.value))
        low = np.where(gone | burst, 0.0, right.low)
        # Weights that have lost digits, or are all 0, still give something within the hull of the values.
        hull = np.abs(situation.core.v).max((1, 2, 3), keepdims=True, initial=0.0)
        return from_parts(situation, value, low, np.where(unclear, 2 * hull, right.limit))

    return Cause(
        name, f"every element is right, but 0 in rows whose scores all lie far below {whose}", distance
    )


def _highest(situation: Situation) -> Array:
    """The largest score of each row, hidden ones included."""
    return np.asarray(solve(_unmasked(situation.core)).m)


def _before_mask(situation: Situation) -> Array:
    """The largest score of each row before a mask is added."""
    return np.asarray(solve(_unbiased(_unmasked(situation.core))).m)


CAUSES = (
    _against("peak-of-hidden-keys", "the largest score of the row, hidden ones included", _highest),
    _against(
        "peak-before-mask", "the largest score before the mask is added, and NaN far above it", _before_mask
    ),
    _against(
        "peak-of-all-heads", "the largest score of all heads", lambda s: s.solution.m.max(1, keepdims=True)
    ),
    _against(
        "peak-of-the-batch", "the largest score of the batch", lambda s: s.solution.m.max(0, keepdims=True)
    ),
    _against("peak-of-everything", "the largest score of all", lambda s: s.solution.m.max(keepdims=True)),
    _against("peak-of-at-least-0", "0", lambda s: np.maximum(s.solution.m, 0)),
    _against("no-peak", "0, and NaN far above it: no maximum is subtracted", lambda s: 0 * s.solution.m),
    _scaled("scale-missing", "with the scale 1: no scale is applied", lambda p: 1.0),
    _scaled(
        "scale-twice",
        "with the scale 1/D in place of 1/sqrt(D), as if it were applied twice",
        lambda p: p.scale**2,
    ),
    _scaled(
        "scale-of-model",
        "with the scale 1/sqrt(H D), that of the model",
        lambda p: p.scale / math.sqrt(p.shape[1]),
    ),
    _scaled(
        "scale-half-applied",
        "with the scale D^(-1/4), as if it reached one of q and k",
        lambda p: math.sqrt(p.scale),
    ),
    _scaled("explicit-scale-ignored", "with the scale 1/sqrt(D), not with the one that was given", _root),
    _scaled(
        "explicit-scale-on-top",
        "if the scale that was given multiplies 1/sqrt(D)",
        lambda p: p.scale * _root(p),
    ),
    _scaled(
        "scale-of-padded-heads",
        "with the scale of a head size that is the next multiple of 8",
        lambda p: 1 / math.sqrt(-(-p.q.shape[3] // 8) * 8 or 1),
    ),
    _scaled("scale-of-values", "with the scale 1/sqrt(Dv)", lambda p: 1 / math.sqrt(p.v.shape[3] or 1)),
    changed("exp2", "if powers of 2 stand in for powers of e", _two_to_the),
    Cause(
        "softmax-over-queries",
        "every element is what attention gives if the weights sum to 1 over the queries, not the keys",
        over_queries,
    ),
    Cause(
        "mask-after-softmax",
        "every element is what attention gives if hidden weights are zeroed after the softmax, whose sum they are in",
        _weighed(_against_sum_of(_unmasked)),
    ),
    Cause(
        "mask-values-after-softmax",
        "every element is what attention gives if finite mask values scale the weights after the softmax",
        _weighed(_against_sum_of(_unbiased)),
    ),
    Cause(
        "unnormalised",
        "every element is what the weights give if they are not divided by their sum",
        _weighed(_unnormalised),
    ),
    changed(
        "one-more-in-the-sum", "with 1 more in the sum of weights: a key of score 0 and value 0", _one_more
    ),
    *(
        changed(
            f"padding-of-{tile}-in-the-sum",
            f"if keys that fill up tiles of {tile} count in the sum, with score 0 and value 0",
            _padded(tile),
        )
        for tile in (8, 16, 32, 64, 128)
    ),
    changed(
        "features-beyond-8-dropped",
        "without the features of q and k beyond the last multiple of 8",
        _tail_cut,
    ),
    changed("scores-ignored", "if all visible keys weigh the same", _even),
    *(
        changed(
            f"{'-'.join(names)}-in-{dtype}",
            f"if {', '.join(names)} are rounded to {dtype} first",
            _rounded(dtype, names),
        )
        for dtype in ("float32", "bfloat16", "float16")
        for names in (("q", "k"), ("k", "v"), ("q", "k", "v"))
    ),
)
