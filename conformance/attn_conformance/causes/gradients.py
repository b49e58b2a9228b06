"""Wrong backward passes: what a gradient is if one of its terms, factors or sums is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attn_conformance.causes.cause import LARGEST, Array, Cause
from attn_conformance.causes.scores import triangle
from attn_conformance.gradients import ask_gradients
from attn_conformance.judge import Answer, Evidence, compare
from attn_reference import Problem, solve, solve_backward, unit_roundoff

ROUNDINGS = 64.0
"""Roundings granted to a term that is wrongly there: it has passed through scores, weights and two sums."""


@dataclass(frozen=True, eq=False)
class Slope:
    """A wrong gradient of a kernel's problem: that of the input `of`, with four axes, from the output gradient dout.

    misread: the output gradient as it lies in memory, where that is not its order.
    """

    got: Array
    right: Answer
    problem: Problem
    of: str
    dout: Array
    misread: Array | None

    def answer(self, problem: Problem, dout: Array) -> Answer:
        """The oracle's answer for another problem, or another output gradient."""
        shaped = np.empty(self.right.value.shape, self.got.dtype)
        asked = ask_gradients(problem, dout, {self.of: shaped}, self.right.dtype, self.right.arithmetic)
        return asked[self.of].answer


def slope_of(evidence: Evidence) -> Slope | None:
    """What a failure's evidence shows; None if it is no gradient of a kernel's, or of too large a problem."""
    problem, of, dout = evidence.answer.problem, evidence.of, evidence.dout
    if of is None or dout is None or not isinstance(problem, Problem):
        return None
    sizes = (int(np.prod(problem.shape)), problem.q.size, problem.k.size, problem.v.size)
    if max(sizes) > LARGEST:
        return None
    return Slope(evidence.got, evidence.answer, problem, of, dout, evidence.misread)


Wrong = Callable[[Slope], Answer | None]
"""What a mistake makes of a gradient; None where it means nothing."""


def _cause(name: str, sentence: str, wrong: Wrong) -> Cause:
    @np.errstate(invalid="ignore", divide="ignore", over="ignore")
    def distance(slope: Any) -> float | None:
        answer = wrong(slope)
        if answer is None or answer.value.shape != slope.got.shape or not compare(slope.got, answer).ok:
            return None
        if np.isinf(answer.limit).any():
            return None  # where everything would pass, nothing is explained
        apart = np.abs(answer.value - slope.right.value)
        ratio = np.where(apart > 0, apart / np.maximum(slope.right.limit, answer.limit), 0.0)
        return float(np.max(np.nan_to_num(ratio, nan=np.inf, posinf=np.inf), initial=0.0))

    return Cause(name, sentence, distance)


def _times(factor: Callable[[Problem], float]) -> Wrong:
    def wrong(slope: Slope) -> Answer | None:
        if slope.of not in ("q", "k"):
            return None
        n, right = factor(slope.problem), slope.right
        return replace(right, value=n * right.value, low=n * right.low, limit=max(n, 1.0) * right.limit)

    return wrong


def _without_row_term(slope: Slope) -> Answer | None:
    """The gradient with p D, which was not subtracted, added again."""
    p, problem = solve(slope.problem).p, slope.problem
    D = solve_backward(problem, slope.dout).D

    def carried(ds: Array, q: Array, k: Array) -> Array | None:
        group = problem.shape[1] // problem.k.shape[1]
        if slope.of == "q":
            return np.asarray(problem.scale * (ds @ np.repeat(k, group, 1)))
        if slope.of == "k":
            heads = problem.scale * (ds.swapaxes(2, 3) @ q)
            B, H, S, n = heads.shape
            return np.asarray(heads.reshape(B, H // group, group, S, n).sum(2))
        if slope.of != "mask":
            return None
        for axis, n in enumerate(slope.right.value.shape):
            ds = ds.sum(axis, keepdims=True) if n == 1 else ds
        return ds

    more = carried(p * D, problem.q, problem.k)
    size = carried(p * np.abs(D), np.abs(problem.q), np.abs(problem.k))
    if more is None or size is None:
        return None
    unit = ROUNDINGS * unit_roundoff(slope.right.dtype)
    return replace(slope.right, value=slope.right.value + more, limit=slope.right.limit + unit * np.abs(size))


def _of_problem(change: Callable[[Problem], Problem | None]) -> Wrong:
    def wrong(slope: Slope) -> Answer | None:
        other = change(slope.problem)
        return None if other is None else slope.answer(other, slope.dout)

    return wrong


def _unmasked(p: Problem) -> Problem | None:
    if p.visible.all() and not p.bias.any():
        return None
    return replace(p, visible=np.ones((1, 1, 1, 1), bool), bias=0 * p.bias)


def _unbiased(p: Problem) -> Problem | None:
    return replace(p, bias=0 * p.bias) if p.bias.any() else None


def _causal(p: Problem) -> Problem:
    return replace(p, visible=p.visible & triangle(p))


def _one_head(pick: int) -> Wrong:
    """Of each group, query head `pick` (0 or -1) alone contributes."""

    def wrong(slope: Slope) -> Answer | None:
        group = slope.problem.shape[1] // slope.problem.k.shape[1]
        if group == 1 or slope.of not in ("k", "v"):
            return None
        own = np.arange(slope.problem.shape[1]) % group == pick % group
        return slope.answer(slope.problem, slope.dout * own[:, None, None])

    return wrong


def _not_summed(slope: Slope) -> Answer | None:
    """Of the axes along which a mask is broadcast, the first element alone."""
    if slope.of != "mask":
        return None
    full = replace(slope.problem, bias=np.broadcast_to(slope.problem.bias, slope.problem.shape))
    answer = replace(slope, right=replace(slope.right, value=np.empty(full.bias.shape))).answer(
        full, slope.dout
    )
    first = tuple(slice(0, n) for n in slope.right.value.shape)
    parts = (answer.value[first], answer.low[first], answer.limit[first])
    return replace(slope.right, value=parts[0], low=parts[1], limit=parts[2])


def _misread(slope: Slope) -> Answer | None:
    return None if slope.misread is None else slope.answer(slope.problem, slope.misread)


def _zero(slope: Slope) -> Answer:
    nothing = np.zeros_like(slope.right.value)
    return replace(slope.right, value=nothing, low=nothing, limit=nothing)


CAUSES = (
    _cause("no-gradient", "every element is 0: nothing flows back to it", _zero),
    _cause(
        "row-term-missing",
        "every element is what the gradient is if D, the row's sum of dout times the output, is not subtracted from dp",
        _without_row_term,
    ),
    _cause(
        "gradient-not-scaled",
        "every element is the gradient without the scale",
        _times(lambda p: 1 / p.scale),
    ),
    _cause(
        "gradient-scaled-twice",
        "every element is the gradient times the scale once more",
        _times(lambda p: p.scale),
    ),
    _cause(
        "mask-missing-in-backward",
        "every element is the gradient of the call without a mask, or without causality",
        _of_problem(_unmasked),
    ),
    _cause(
        "mask-values-missing-in-backward",
        "every element is the gradient of the call without the finite values of the mask",
        _of_problem(_unbiased),
    ),
    _cause(
        "causal-in-backward",
        "every element is the gradient of the causal call",
        _of_problem(_causal),
    ),
    _cause(
        "last-head-of-group",
        "every element is the gradient from the last query head of each group, not the sum over the group",
        _one_head(-1),
    ),
    _cause(
        "first-head-of-group",
        "every element is the gradient from the first query head of each group, not the sum over the group",
        _one_head(0),
    ),
    _cause(
        "mask-gradient-not-summed",
        "every element is the gradient of the first batch element, head and query that the mask is broadcast to, "
        "not the sum over them",
        _not_summed,
    ),
    _cause(
        "output-gradient-misread",
        "every element is the gradient from the numbers of the output gradient as they lie in memory",
        _misread,
    ),
)
