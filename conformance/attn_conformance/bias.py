"""Bias: errors of many problems fitted to what a defect would add to each output, and the defect named.

One error says little: rounding makes errors too. But rounding has no direction, so over many problems that share
nothing its part of a fit averages out, and a defect that no single element shows stands out by many standard errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases.values import STORAGE
from attn_conformance.judge import Answer
from attn_reference import Arithmetic, Problem, Solution, bound, half_ulp, solve
from attn_reference.bound import roundings
from attn_reference.matrices import finite, grouped

Array = NDArray[np.float64]

SIGMAS = 6.0
"""Standard errors beyond which a coefficient is no chance: of 64 problems, one fit in 10^7 (Student's t)."""

SENTENCES = {
    "gain": "outputs are too {large} by {percent:.2g} % +- {percent_error:.1g} %",
    "scale": "logits are scaled by {factor:.5f} +- {error:.1g}",
    "leak": "every hidden key has a weight of {value:.2g} +- {error:.1g}",
    "rounding": "results are rounded {way} zero: {value:+.2f} +- {error:.1g} units in the last place on average",
}
"""What each direction means, in words."""


@dataclass(frozen=True)
class Fit:
    """One coefficient: errors = value * direction, fitted by least squares over all problems.

    error: its standard error, from how much the problems differ. allowed: what errors that may share a direction, those
    of accumulators and of exp, can make of it. explained: by how much it lowers the sum of weighted squares.
    """

    name: str
    value: float
    error: float
    allowed: float
    explained: float

    @property
    def limit(self) -> float:
        """How large it may be by chance and by what is allowed."""
        return self.allowed + SIGMAS * self.error

    @property
    def biased(self) -> bool:
        """Whether it is larger than that."""
        return abs(self.value) > self.limit

    @property
    def sentence(self) -> str:
        """What the coefficient says is wrong."""
        large = "large" if self.value > 0 else "small"
        way = "away from" if self.value > 0 else "towards"
        percent, percent_error = 100 * abs(self.value), 100 * self.error
        return SENTENCES[self.name].format(
            value=self.value,
            error=self.error,
            factor=1 + self.value,
            large=large,
            way=way,
            percent=percent,
            percent_error=percent_error,
        )


def directions(problem: Problem, solution: Solution, dtype: str) -> Iterator[tuple[str, Array]]:
    """What a small defect of each name adds to the output, (B, H, T, Dv), for each unit of its coefficient."""
    o, p, v = solution.o, solution.p, finite(problem.v)
    hidden = np.broadcast_to(~problem.visible, p.shape).astype(np.float64)
    s = np.where(hidden, 0.0, solution.s - problem.bias)
    yield "gain", o
    yield "scale", grouped(p * (s - (p * s).sum(-1, keepdims=True)), v)
    yield "leak", grouped(hidden, v) - hidden.sum(-1, keepdims=True) * o
    yield "rounding", np.sign(o) * 2 * half_ulp(o, dtype)


def fits(got: Array, answer: Answer) -> tuple[Fit, ...]:
    """The coefficient of every direction that the problems have, for an output (B, H, T, Dv) in its storage dtype.

    The B H problems must be independent of each other. Errors are counted from the reference rounded to the dtype, not
    from the reference: where all results lie on one side of a rounding boundary, rounding itself has a direction.
    """
    problem = answer.problem
    assert isinstance(problem, Problem)
    assert answer.value.shape == got.shape  # of all rows
    solution = solve(problem)
    nearest = (answer.value + answer.low).astype(STORAGE[answer.dtype]).astype(np.float64)
    error = got.astype(np.float64) - nearest
    # Elements that are wrong by themselves are left out, and those of which anything or nothing is allowed.
    judged = (np.abs(error) <= answer.limit) & np.isfinite(answer.limit) & (answer.limit > 0)
    error = np.where(judged, error, 0.0)
    weight = np.where(judged, answer.limit, np.inf) ** -2.0
    # Roundings to the storage dtype have no direction; those of accumulators and of tf32, and the error of exp, may.
    arithmetic: Arithmetic = "tf32" if answer.arithmetic == "tf32" else "precise"
    accumulators = bound(problem, solution, answer.dtype, arithmetic)
    eps_exp = roundings(answer.dtype, answer.arithmetic).eps_exp
    v, largest = finite(problem.v).swapaxes(-1, -2), solution.s == solution.m
    found = []
    for name, direction in directions(problem, solution, answer.dtype):
        weighted = weight * direction
        size = (weighted * direction).sum((2, 3)).ravel()
        if not size.any():
            continue  # no key is hidden
        along = (weighted * error).sum((2, 3)).ravel()
        total, n = size.sum(), size.size
        value = along.sum() / total
        spread = np.sqrt(((along - value * size) ** 2).sum() * n / (n - 1)) / total
        # exp errs alike above and below the line, and d o / d ln p_j is p_j (v_j - o). But where it should be 1, the
        # weight may be rounded back to that and the normaliser not.
        across = (weighted * solution.o).sum(-1, keepdims=True)
        exp = solution.p * (np.abs(grouped(weighted, v) - across) + largest * np.abs(across))
        allowed = ((np.abs(weighted) * accumulators).sum() + eps_exp * exp.sum()) / total
        found.append(Fit(name, value, spread, allowed, value * along.sum()))
    return tuple(found)
