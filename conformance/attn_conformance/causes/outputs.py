"""Outputs that tell by themselves: zeros, rows without a visible key, hidden NaN, and numbers of a lower dtype."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from attn_conformance.cases.values import STORAGE
from attn_conformance.causes.cause import Array, Cause, Recognition, Situation, asked, from_parts, from_wrong
from attn_conformance.judge import ask, compare
from attn_reference import ForwardProblem, Problem

LOWER = {"float64": ("bfloat16", "float16", "float32"), "float32": ("bfloat16", "float16")}
"""The dtypes that hold fewer digits, the coarsest first."""


def _constant(number: float) -> Recognition:
    return lambda situation: from_parts(situation, np.array(number), np.zeros(()), np.zeros(()))


def _filled(situation: Situation, places: Array, filling: Array) -> float | None:
    """The distance for an output that is right but holds `filling`, exactly, in some places."""
    right = situation.right
    value, low, limit = np.where(places, filling, right.value), np.where(places, 0, right.low), right.limit
    return from_parts(situation, value, low, np.where(places, 0, limit))


def _nan_hidden(situation: Situation) -> float | None:
    return _filled(situation, np.isnan(situation.right.value), np.zeros(()))


def _nan_in_empty_rows(situation: Situation) -> float | None:
    """NaN in those rows, or, as behind an out projection, in each row of a query that has one of them in some head."""
    rows, nan = situation.solution.empty, np.array(np.nan)
    of_any_head = np.asarray(rows.any(1, keepdims=True))
    alone = None if isinstance(situation.problem, ForwardProblem) else _filled(situation, rows, nan)
    return _filled(situation, of_any_head, nan) if alone is None else alone


def _query_in_empty_rows(situation: Situation) -> float | None:
    p = situation.problem
    if not isinstance(p, Problem) or p.q.shape[3] != p.v.shape[3]:
        return None
    return _filled(situation, situation.solution.empty, p.q)


def _opened(*, even: bool) -> Recognition:
    """Recognises an output where rows without a visible key see all keys; even: and weigh them all the same."""

    def distance(situation: Situation) -> float | None:
        p, rows, right = situation.problem, situation.solution.empty, situation.right
        if not isinstance(p, Problem) or not rows.any():
            return None
        opened = replace(
            p, q=np.where(rows & even, 0, p.q), visible=p.visible | rows, bias=np.where(rows, 0, p.bias)
        )
        return from_wrong(situation, ask(opened, right.dtype, right.arithmetic))

    return distance


def _without_bias(situation: Situation) -> float | None:
    if not isinstance(situation.problem, ForwardProblem):
        return None
    return _filled(situation, np.asarray(situation.solution.empty.all(1, keepdims=True)), np.zeros(()))


def _in(dtype: str) -> Recognition:
    """Recognises numbers of a lower dtype, within its bound: the right ones have more digits."""

    def distance(situation: Situation) -> float | None:
        right, problem = situation.right, situation.problem
        if dtype not in LOWER.get(right.dtype, ()) or not _held(situation.got, dtype):
            return None
        if _held(right.value.astype(right.dtype), dtype):
            return None
        # Inputs may have been rounded too, or the result alone.
        coarse = (asked(posed, dtype, right.arithmetic) for posed in (_lowered(problem, dtype), problem))
        return math.inf if any(compare(situation.got, answer).ok for answer in coarse) else None

    return distance


@np.errstate(over="ignore")
def _lowered(problem: Problem | ForwardProblem, dtype: str) -> Problem | ForwardProblem:
    def rounded(array: Array) -> Array:
        return np.asarray(array.astype(STORAGE[dtype]).astype(np.float64))

    if isinstance(problem, Problem):
        return replace(problem, q=rounded(problem.q), k=rounded(problem.k), v=rounded(problem.v))
    weights, biases = (
        {name: rounded(array) for name, array in named.items()} for named in (problem.weights, problem.biases)
    )
    return replace(problem, x=rounded(problem.x), src=rounded(problem.src), weights=weights, biases=biases)


def _held(numbers: Array, dtype: str) -> float | None:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(
            np.array_equal(numbers, numbers.astype(STORAGE[dtype]).astype(numbers.dtype), equal_nan=True)
        )


EMPTY_ROWS = (
    Cause(
        "empty-rows-nan", "every element is right, but NaN in rows without a visible key", _nan_in_empty_rows
    ),
    Cause(
        "empty-rows-mean",
        "every element is right, but rows without a visible key hold the mean of v",
        _opened(even=True),
    ),
    Cause(
        "empty-rows-opened",
        "every element is right, but rows without a visible key see all keys",
        _opened(even=False),
    ),
    Cause(
        "empty-rows-query",
        "every element is right, but rows without a visible key hold the query",
        _query_in_empty_rows,
    ),
    Cause(
        "empty-rows-no-bias",
        "every element is right, but 0 in rows without a visible key: the bias of out is missing",
        _without_bias,
    ),
)

CAUSES = (
    Cause("zeros", "every element is 0", _constant(0.0)),
    Cause("all-nan", "every element is NaN", _constant(np.nan)),
    Cause("nan-hidden", "every element is right, but 0 where it must be NaN", _nan_hidden),
    *(
        Cause(
            f"in-{dtype}",
            f"every element is a number of {dtype} and within its bound: computed or stored in {dtype}",
            _in(dtype),
        )
        for dtype in ("bfloat16", "float16", "float32")
    ),
)
