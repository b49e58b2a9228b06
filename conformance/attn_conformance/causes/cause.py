"""A cause: a wrong way to attend, told by its output, and how it is recognised with certainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attn_conformance.judge import MATTERS, Answer, Evidence, ask, ask_module, compare
from attn_reference import Arithmetic, ForwardProblem, Problem, Solution, lower, solve, solve_forward

Array = NDArray[Any]

Hiding = Literal["mask", "causal", "nothing"]
"""What hides keys in a problem, or adds to its scores."""


@dataclass(frozen=True, eq=False)
class Situation:
    """A wrong output, the right answer, and what may hide keys: causality or a mask, which may also hide none.

    mistaken: problems for which the one that was posed may have been mistaken, by what they are.
    """

    got: Array
    right: Answer
    hiding: Hiding
    mistaken: Mapping[str, Sequence[Problem | ForwardProblem | None]] = field(default_factory=dict)

    @property
    def problem(self) -> Problem | ForwardProblem:
        """The problem that was posed."""
        assert self.right.problem is not None  # else there is no situation
        return self.right.problem

    @cached_property
    def core(self) -> Problem:
        """The attention between the projections, or the problem itself."""
        return self._solved[0]

    @cached_property
    def solution(self) -> Solution:
        """The solution of the core."""
        return self._solved[1]

    @cached_property
    def _solved(self) -> tuple[Problem, Solution]:
        if isinstance(self.problem, Problem):
            return self.problem, solve(self.problem)
        found = solve_forward(self.problem)
        return found.core, found.attention


Recognition = Callable[[Any], float | None]
"""From a situation (of gradients, a slope): None if the output is not what a cause makes of the problem; else how many
bounds the right answer is from that."""


@dataclass(frozen=True)
class Cause:
    """A wrong way to attend. name: unique, a few words; sentence: what is true of every output that it explains."""

    name: str
    sentence: str
    distance: Recognition

    def explains(self, situation: Any) -> bool:
        """Whether the output is what the cause makes of the problem."""
        return self.distance(situation) is not None

    def proved(self, situation: Any) -> bool:
        """Whether it explains the output, and the right answer is far from that."""
        return (self.distance(situation) or 0.0) > MATTERS


Change = Callable[[Problem], Problem | None]
"""Another problem in place of a right one; None where the change means nothing."""


ForwardChange = Callable[[ForwardProblem], ForwardProblem | None]
"""The same of a forward call."""


def changed(
    name: str, clause: str, change: Change | None, *hidden_by: Hiding, forward: ForwardChange | None = None
) -> Cause:
    """The cause whose output answers another problem: "every element is what attention gives" + clause.

    hidden_by: in which situations it is looked for; in all, if none is named. forward: the change of a forward call,
    where it is not one of scale, visibility or bias between the projections.
    """

    def other(situation: Situation) -> Problem | ForwardProblem | None:
        problem, core = situation.problem, situation.core
        if isinstance(problem, ForwardProblem) and forward is not None:
            return forward(problem)
        between = None if change is None else change(core)
        if between is None or isinstance(problem, Problem):
            return between
        return within_projections(problem, core, between)

    def distance(situation: Situation) -> float | None:
        if hidden_by and situation.hiding not in hidden_by:
            return None
        posed = other(situation)
        return None if posed is None else from_answer_to(situation, posed)

    return Cause(name, f"every element is what attention gives {clause}", distance)


def asked(posed: Problem | ForwardProblem, dtype: str, arithmetic: Arithmetic) -> Answer:
    """The oracle's answer to either kind of problem."""
    if isinstance(posed, ForwardProblem):
        return ask_module(posed, dtype, arithmetic)
    return ask(posed, dtype, arithmetic)


def from_answer_to(situation: Situation, posed: Problem | ForwardProblem) -> float | None:
    """The distance for an output that answers another problem: first in one query row, which rules most of them out."""
    right = situation.right
    if situation.got.shape[2] > 1:
        worst = compare(situation.got, right).worst
        row = np.array([0 if worst is None else worst.index[2]])
        # What is beyond the bound of float32 is beyond that of float64, which takes longer to find.
        dtype = "float32" if right.dtype == "float64" else right.dtype
        if not compare(situation.got[:, :, row], asked(rows_of(posed, row), dtype, right.arithmetic)).ok:
            return None
    wrong = asked(posed, right.dtype, right.arithmetic)
    if right.dtype == "float64":  # another problem's own numbers, its scale above all, are rounded to float64
        wrong = replace(wrong, limit=2 * wrong.limit)
    return from_wrong(situation, wrong)


def rows_of(posed: Problem | ForwardProblem, rows: Array) -> Problem | ForwardProblem:
    """The same problem for some query rows alone."""
    if isinstance(posed, Problem):
        return posed.take_rows(rows)
    T, S = posed.x.shape[1], posed.src.shape[1]
    # What hides keys, from a problem of no head size.
    q, k = np.empty((1, 1, T, 0)), np.empty((1, 1, S, 0))
    seen = lower(q, k, k, posed.mask, posed.is_causal).take_rows(rows)
    mask = np.where(seen.visible, seen.bias, -np.inf)
    return replace(posed, x=posed.x[:, rows], mask=mask, is_causal=False)


@np.errstate(invalid="ignore", divide="ignore")
def from_wrong(situation: Situation, wrong: Answer) -> float | None:
    """How many bounds the right answer is from a wrong one; None unless every element is within that one's bound."""
    right = situation.right
    if wrong.value.shape != right.value.shape or not compare(situation.got, wrong).ok:
        return None
    off = ~(np.abs(situation.got.astype(np.float64) - right.value) <= right.limit)
    if np.any(off & np.isinf(wrong.limit)):
        return None  # where everything would pass, nothing is explained
    apart = np.abs((wrong.value - right.value) + (wrong.low - right.low))
    ratio = np.where(apart > 0, apart / np.maximum(right.limit, wrong.limit), 0.0)
    ratio = np.where(np.isnan(wrong.value) != np.isnan(right.value), np.inf, ratio)
    return float(np.max(np.nan_to_num(ratio, nan=0.0, posinf=np.inf), initial=0.0))


def from_parts(situation: Situation, value: Array, low: Array, limit: Array) -> float | None:
    """`from_wrong` for a wrong answer of these parts, each of the shape of the right one's or broadcast to it."""
    shape = situation.right.value.shape
    value, low, limit = (np.broadcast_to(part, shape) for part in (value, low, limit))
    return from_wrong(situation, replace(situation.right, value=value, low=low, limit=limit))


def within_projections(problem: ForwardProblem, core: Problem, other: Problem) -> ForwardProblem | None:
    """The forward call whose core is `other`; None if that has another q, k or v."""
    if other.q is not core.q or other.k is not core.k or other.v is not core.v:
        return None
    ratio = other.scale / core.scale
    weights, biases = dict(problem.weights), dict(problem.biases)
    weights["query"], biases["query"] = weights["query"] * ratio, biases["query"] * ratio
    mask = np.where(other.visible, other.bias, -np.inf)
    return replace(problem, weights=weights, biases=biases, mask=mask, is_causal=False)


LARGEST = 2**16
"""Most scores, and most numbers in q, k or v, of problems in which causes are looked for: a hundred other problems of
that size take a fraction of a second."""


def situation_of(evidence: Evidence, *, causal: bool, masked: bool, across: bool = False) -> Situation | None:
    """What a failure's evidence shows; None if it does not tell of one problem, or of one too large to look at.

    causal, masked: what the case says of the call. across: whether x carries q, and xa carries k and v.
    """
    problem, mistaken = evidence.answer.problem, evidence.mistaken
    if isinstance(problem, ForwardProblem):
        (B, T, _), S = problem.x.shape, problem.src.shape[1]
        # Projections, and what they do to the bound, take as long again.
        sizes: tuple[int, ...] = (2 * B * problem.n_head * T * S, problem.x.size, problem.src.size)
        causal, masked = problem.is_causal, problem.mask is not None
    elif problem is not None:
        sizes = (int(np.prod(problem.shape)), problem.q.size, problem.k.size, problem.v.size)
        masked = masked or not problem.visible.all()
        if across:
            mistaken = {**mistaken, "x for xa": [_within_x(problem)]}
    else:
        return None
    fits = min(sizes) > 0 and max(sizes) <= LARGEST and evidence.got.shape == evidence.answer.value.shape
    hiding: Hiding = "causal" if causal else "mask" if masked else "nothing"
    return Situation(evidence.got, evidence.answer, hiding, mistaken) if fits else None


def _within_x(p: Problem) -> Problem | None:
    """The problem where what carries q alone stands for what carries k and v: k is q, and v is 0."""
    (B, H, T, _), Dv = p.q.shape, p.v.shape[3]
    posed = replace(p, k=p.q, v=np.zeros((B, H, T, Dv)))
    if p.k.shape[2] == T:
        return posed
    if not p.visible.all() or p.bias.any():
        return None
    return replace(posed, visible=np.ones((1, 1, 1, 1), bool), bias=np.zeros((1, 1, 1, 1)))
