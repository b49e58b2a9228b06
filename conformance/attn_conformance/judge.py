"""The verdict on one output: every element within the certified bound, NaN exactly where NaN is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases.forward import Forward
from attn_reference import (
    ForwardProblem,
    Problem,
    bound,
    forward_bound,
    limit,
    lower_forward,
    lse_bound,
    solve,
    solve_extended,
    solve_forward,
)
from attn_reference.claims import Arithmetic

Array = NDArray[Any]

MOST_SCORES = 2**20
"""Largest B H T S that is judged in every row: above it a spread of rows is, each exactly (about 0.5 s)."""

MATTERS = 10.0
"""A feature mattered in an example if leaving it out moves some element by more than this many bounds."""

FEWEST_DIGITS, MOST_DIGITS = 9, 17
"""Of numbers in a message: 9 give any float32 back, 17 any float64."""


class Failed(AssertionError):
    """A requirement does not hold in an example.

    comparison: how an output stood to its answer, and evidence: both of these, where that is what failed. rests: other
    requirements, of which one or more judge something simpler that fails, too (`grounds.resting`).
    """

    def __init__(
        self,
        message: str,
        comparison: Comparison | None = None,
        evidence: Evidence | None = None,
        rests: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.comparison = comparison
        self.evidence = evidence
        self.rests = rests

    def told(self, message: str) -> Failed:
        """The same failure in other words, without its traceback."""
        return Failed(message, self.comparison, self.evidence, self.rests)


class Deadly(Failed):
    """A case that has ended a process, as is known from another one: nothing simpler is tried after it."""


class NotAsked(Exception):
    """An example in which the requirement has nothing to say of this subject; the message says why."""


@dataclass(frozen=True)
class Element:
    """One element: its index (b, h, i, c), what was expected and got, and the most they may differ by."""

    index: tuple[int, ...]
    expected: float
    got: float
    limit: float

    @property
    def ratio(self) -> float:
        """Error over limit; infinite where exactly one of the two is NaN, or got is infinite."""
        if np.isnan(self.expected) or not np.isfinite(self.got):
            return 0.0 if np.isnan(self.expected) and np.isnan(self.got) else float("inf")
        error = abs(self.got - self.expected)
        return 0.0 if error == 0 else (error / self.limit if self.limit > 0 else float("inf"))

    def __str__(self) -> str:
        """With as many digits as show by how much the two numbers differ."""
        shown = max(self.limit / 10, abs(self.got - self.expected) / 1000)
        expected = got = ""
        for digits in range(FEWEST_DIGITS, MOST_DIGITS + 1):
            expected, got = f"{self.expected:.{digits}g}", f"{self.got:.{digits}g}"
            cut = max(abs(float(expected) - self.expected), abs(float(got) - self.got))
            if expected != got and not cut > shown:
                break
        return (
            f"[{', '.join(map(str, self.index))}] expected {expected}, got {got}, bound {self.limit:.3g} "
            f"({self.ratio:.3g} times over)"
        )


@dataclass(frozen=True)
class Comparison:
    """How an output stands to its answer: the largest error over limit, and who exceeds it."""

    ratio: float
    wrong: int
    size: int
    first: Element | None = None
    worst: Element | None = None

    @property
    def ok(self) -> bool:
        """Every element is within its limit."""
        return self.wrong == 0

    def explain(self) -> str:
        """How many elements are off, and on lines of their own the first and the worst of them."""
        if self.first is None or self.worst is None:
            return f"all {self.size} elements within the bound (largest error {self.ratio:.2f} of it)"

        text = f"{self.wrong} of {self.size} elements out of bound\nfirst {self.first}"
        return text if self.first.index == self.worst.index else f"{text}\nworst {self.worst}"


@dataclass(frozen=True, eq=False)
class Answer:
    """What the oracle allows: value + low +- limit per element (B, H, R, Dv), for the query rows `rows`.

    problem, dtype, arithmetic: what the oracle was asked; problem has all its rows, and is None where the answer is
    not that of one problem. under: the answer to the same question for another dtype and arithmetic; None where there
    is none.
    """

    value: Array
    low: Array
    limit: Array
    rows: Array
    problem: Problem | ForwardProblem | None = None
    dtype: str = "float32"
    arithmetic: Arithmetic = "fused"
    under: Callable[[str, Arithmetic], Answer] | None = None

    def doubled(self, value: Array) -> Answer:
        """What a second run may give when the first gave `value`: both lie within the limit of one truth."""
        doubled = replace(
            self,
            value=value[:, :, self.rows].astype(np.float64),
            low=0 * self.low,
            limit=2 * self.limit,
            problem=None,
        )
        return doubled._likewise(lambda other: other.doubled(value))

    def part(self, index: Array, axis: int) -> Answer:
        """The answer for some batch elements (axis 0) or heads (axis 1), in the order of `index`; of no problem."""
        value, low, limit = (part.take(index, axis) for part in (self.value, self.low, self.limit))
        part = replace(self, value=value, low=low, limit=limit, problem=None)
        return part._likewise(lambda other: other.part(index, axis))

    def claiming(self, looser: str) -> Answer:
        """The answer under a looser claim, by name: an arithmetic, or the dtype that it is computed in."""
        assert self.under is not None  # else nothing is known to be looser
        if looser in get_args(Arithmetic):
            return self.under(self.dtype, cast(Arithmetic, looser))
        return self.under(looser, self.arithmetic)

    def _likewise(self, change: Callable[[Answer], Answer]) -> Answer:
        """The answer, which `change` made: what other claims allow is to be changed likewise."""
        under = self.under
        return (
            self
            if under is None
            else replace(self, under=lambda dtype, claimed: change(under(dtype, claimed)))
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """An output that is wrong, (B, H, T, Dv) in its storage dtype, and the answer to the problem that it is for.

    mistaken: problems that it may answer instead, which only their maker knows, by what they are. of, dout: where it is
    a gradient, that of which input, from which output gradient. misread: that one as it lies in memory.
    """

    got: Array
    answer: Answer
    mistaken: Mapping[str, Sequence[Problem | ForwardProblem | None]] = field(default_factory=dict)
    of: str | None = None
    dout: Array | None = None
    misread: Array | None = None


def ask(problem: Problem, dtype: str, arithmetic: Arithmetic) -> Answer:
    """The oracle's answer for an output stored in `dtype` and computed under the claimed arithmetic."""
    rows, judged = _judged_rows(problem)
    solution = solve_extended(judged) if dtype == "float64" else solve(judged)
    spread = bound(judged, solution, dtype, arithmetic)
    most = limit(solution.o, spread, dtype)
    under = partial(ask, problem)
    return Answer(solution.o, solution.o_low, most, rows, problem, dtype, arithmetic, under)


def lower_call(call: Forward) -> ForwardProblem:
    """The problem that a forward call poses."""
    src = call.x if call.xa is None else call.xa
    return lower_forward(call.cast, call.x, src, n_head=call.n_head, mask=call.mask, is_causal=call.is_causal)


def ask_forward(call: Forward, arithmetic: Arithmetic) -> Answer:
    """As `ask_module`, for the problem that a forward call poses."""
    return ask_module(lower_call(call), call.dtype, arithmetic)


def ask_module(problem: ForwardProblem, dtype: str, arithmetic: Arithmetic) -> Answer:
    """As `ask`, for a whole forward call: (B, 1, T, n_state), one head as wide as the module."""
    solution = solve_forward(problem, extended=dtype == "float64")
    spread = forward_bound(problem, solution, dtype, arithmetic)
    most = limit(solution.y, spread, dtype)
    rows = np.arange(problem.x.shape[1])
    value, low, most = (part[:, None] for part in (solution.y, solution.y_low, most))
    return Answer(value, low, most, rows, problem, dtype, arithmetic, partial(ask_module, problem))


def ask_lse(problem: Problem, dtype: str, arithmetic: Arithmetic) -> Answer:
    """The oracle's answer for the log-sum-exp, as (B, H, R, 1)."""
    rows, judged = _judged_rows(problem)
    solution = solve(judged)
    spread = lse_bound(judged, solution, dtype, arithmetic)[..., None]
    value, under = solution.lse.reshape(spread.shape), partial(ask_lse, problem)
    return Answer(value, np.zeros_like(value), spread, rows, None, dtype, arithmetic, under)


def _judged_rows(problem: Problem) -> tuple[Array, Problem]:
    B, H, T, S = problem.shape
    most = max(1, MOST_SCORES // max(1, B * H * S))
    if most >= T:
        return np.arange(T), problem
    rows = np.unique(np.linspace(0, T - 1, max(2, most)).astype(int))
    return rows, problem.take_rows(rows)


def compare(got: Array, answer: Answer) -> Comparison:
    """Judge an output (B, H, T, Dv) in its storage dtype; NaN must be where the answer has it and nowhere else."""
    mine = got[:, :, answer.rows].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.where(mine == answer.value, np.abs(answer.low), np.abs((mine - answer.value) - answer.low))
        due = np.isnan(answer.value)
        # Where even infinity is allowed (the value may overflow the dtype) the limit is infinite.
        off = np.where(
            due, ~np.isnan(mine), ~(error <= answer.limit) & ~(np.isinf(answer.limit) & ~np.isnan(mine))
        )
        ratio = np.where(due | (error == 0) | np.isinf(answer.limit), 0.0, error / answer.limit)
        ratio = np.where(off & ~(ratio > 1), np.inf, ratio)
    largest = float(ratio.max(initial=0.0))
    wrong = int(off.sum())
    if not wrong:
        return Comparison(largest, 0, int(off.size))

    def element(position: Any) -> Element:
        b, h, r, c = (int(n) for n in np.unravel_index(position, off.shape))
        at = (b, h, r, c)
        index = (b, h, int(answer.rows[r]), c)
        return Element(index, float(answer.value[at]), float(mine[at]), float(answer.limit[at]))

    worst = int(np.argmax(ratio))  # above 1 where it is off, and nowhere else
    return Comparison(
        largest, wrong, int(off.size), element(np.flatnonzero(off.reshape(-1))[0]), element(worst)
    )


def differs(answer: Answer, other: Answer) -> bool:
    """Whether another answer has a value more than MATTERS bounds away from this one's."""
    with np.errstate(invalid="ignore"):
        return bool(np.any(np.abs(other.value - answer.value) > MATTERS * answer.limit))


def moves(answer: Answer, without: Problem) -> bool:
    """Whether the problem `without` a feature has a value more than MATTERS bounds away from the answer."""
    if without.shape[2] > answer.rows.size:
        without = without.take_rows(answer.rows)
    with np.errstate(invalid="ignore"):
        shift = np.abs(solve(without).o - answer.value)
        return bool(np.any(shift > MATTERS * answer.limit))
