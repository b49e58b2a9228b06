"""Bias: errors of many problems fitted to what a defect would add to each output, and the defect named.

One error says little: rounding makes errors too. But rounding has no direction, so over many problems that share
nothing its part of a fit averages out, and a defect that no single element shows stands out by many standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases.values import STORAGE
from attn_conformance.gradients import Gradient
from attn_conformance.judge import Answer
from attn_reference import (
    Arithmetic,
    Problem,
    Solution,
    backward_bound,
    bound,
    half_ulp,
    solve,
    solve_backward,
)
from attn_reference.bound import roundings
from attn_reference.matrices import grouped
from attn_reference.pair_errors import across

Array = NDArray[np.float64]

SIGMAS = 6.0
"""Standard errors beyond which a coefficient is no chance: of 64 problems, one fit in 10^7 (Student's t)."""

SENTENCES = {
    "gain": "results are too {large} by {percent:.2g} % +- {percent_error:.1g} %",
    "scale": "logits are scaled by {factor:.5f} +- {error:.1g}",
    "leak": "every hidden key has a weight of {value:.2g} +- {error:.1g}",
    "row term": "D, the row's mean of the gradient of p, is too {large} by {percent:.2g} % +- {percent_error:.1g} %",
    "rounding": "results are rounded {way} zero: {value:+.2f} +- {error:.1g} units in the last place on average",
}
"""What each direction means, in words."""

SHORT = {
    "gain": "{large} by {percent:.1g} %",
    "scale": "as if logits were scaled by {factor:.3g}",
    "leak": "as if hidden keys weighed {value:.0g}",
    "row term": "as if D were {large} by {percent:.1g} %",
    "rounding": "{way} zero by {size:.1f} units in the last place",
}
"""The same in few words and digits, for what is counted."""


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
        return self._told(SENTENCES, "large" if self.value > 0 else "small")

    @property
    def short(self) -> str:
        """The same in few words and digits, so that what is alike is called alike."""
        return self._told(SHORT, "too large" if self.value > 0 else "too small")

    def _told(self, words: Mapping[str, str], large: str) -> str:
        return words[self.name].format(
            value=self.value,
            size=abs(self.value),
            error=self.error,
            factor=1 + self.value,
            large=large,
            way="away from" if self.value > 0 else "towards",
            percent=100 * abs(self.value),
            percent_error=100 * self.error,
        )


def most_biased(found: Iterable[Fit]) -> Fit | None:
    """If any coefficient is biased, that which explains the most of the errors; one may be biased through another."""
    found = tuple(found)
    return max(found, key=lambda fit: fit.explained) if any(fit.biased for fit in found) else None


def directions(problem: Problem, solution: Solution, dtype: str) -> Iterator[tuple[str, Array]]:
    """What a small defect of each name adds to the output, (B, H, T, Dv), for each unit of its coefficient."""
    o, p, v = solution.o, solution.p, problem.v
    hidden = np.broadcast_to(~problem.visible, p.shape).astype(np.float64)
    s = np.where(hidden, 0.0, solution.s - problem.bias)
    yield "gain", o
    yield "scale", grouped(p * (s - (p * s).sum(-1, keepdims=True)), v)
    yield "leak", grouped(hidden, v) - hidden.sum(-1, keepdims=True) * o
    yield "rounding", _ulps(o, dtype)


def fits(got: Array, answer: Answer) -> tuple[Fit, ...]:
    """The coefficient of every direction that the problems have, for an output (B, H, T, Dv) in its storage dtype.

    The B H problems must be independent of each other. Errors are counted from the reference rounded to the dtype, not
    from the reference: where all results lie on one side of a rounding boundary, rounding itself has a direction.
    """
    problem = answer.problem
    assert isinstance(problem, Problem)
    assert answer.value.shape == got.shape  # of all rows
    solution = solve(problem)
    # Roundings to the storage dtype have no direction; those of accumulators and of tf32, and the error of exp, may.
    accumulators = bound(problem, solution, *_accumulating(answer))
    eps_exp = roundings(answer.dtype, answer.arithmetic).eps_exp
    v, largest = problem.v.swapaxes(-1, -2), solution.s == solution.m

    def allowed(weighted: Array) -> float:
        # exp errs alike above and below the line, and d o / d ln p_j is p_j (v_j - o). But where it should be 1, the
        # weight may be rounded back to that and the normaliser not.
        own = (weighted * solution.o).sum(-1, keepdims=True)
        exp = solution.p * (np.abs(grouped(weighted, v) - own) + largest * np.abs(own))
        return float((np.abs(weighted) * accumulators).sum() + eps_exp * exp.sum())

    error, weight = _errors(got, answer)
    named = directions(problem, solution, answer.dtype)
    return tuple(fit for name, x in named if (fit := _fit(name, error, weight, x, allowed)) is not None)


def gradient_fits(got: Mapping[str, Array], asked: Mapping[str, Gradient]) -> dict[str, tuple[Fit, ...]]:
    """As `fits`, for gradients of q, k and v, each (B, H, T or S, n), as many key heads as query heads."""
    first = next(iter(asked.values()))
    problem = first.answer.problem
    assert isinstance(problem, Problem)
    backward = solve_backward(problem, first.dout)
    p, ds, scale, Hkv = backward.solution.p, np.abs(backward.ds), problem.scale, problem.k.shape[1]
    accumulators = backward_bound(problem, backward, *_accumulating(first.answer))
    # What an error of exp, and that which it makes of a row's normaliser and D, do to ds and p.
    of_ds, of_p = ds + p * ds.sum(-1, keepdims=True), 2 * p
    eps_exp = roundings(first.answer.dtype, first.answer.arithmetic).eps_exp
    exp = {
        "q": scale * grouped(of_ds, np.abs(problem.k)),
        "k": scale * across(of_ds, np.abs(problem.q), Hkv),
        "v": across(of_p, np.abs(backward.do), Hkv),
    }
    row_term = {
        "q": -scale * grouped(p * backward.D, problem.k),
        "k": -scale * across(p * backward.D, problem.q, Hkv),
    }
    found = {}
    for of, gradient in asked.items():
        value, spread = gradient.answer.value, accumulators[of] + eps_exp * exp[of]
        named = {"gain": value, "row term": row_term.get(of), "rounding": _ulps(value, gradient.dtype)}

        def allowed(weighted: Array, spread: Array = spread) -> float:
            return float((np.abs(weighted) * spread).sum())

        error, weight = _errors(got[of], gradient.answer)
        fitted = (_fit(name, error, weight, x, allowed) for name, x in named.items() if x is not None)
        found[of] = tuple(fit for fit in fitted if fit is not None)
    return found


def _accumulating(answer: Answer) -> tuple[str, Arithmetic]:
    """A dtype and an arithmetic in which nothing but accumulators, and tf32's operands, are rounded."""
    accumulator = "float64" if answer.dtype == "float64" else "float32"
    return accumulator, "tf32" if answer.arithmetic == "tf32" else "precise"


def _errors(got: Array, answer: Answer) -> tuple[Array, Array]:
    """Errors and weights of elements; those that are wrong by themselves, or of which anything is allowed, count 0."""
    nearest = answer.value.astype(STORAGE[answer.dtype]).astype(np.float64)
    error = got.astype(np.float64) - nearest
    judged = (np.abs(error) <= answer.limit) & np.isfinite(answer.limit) & (answer.limit > 0)
    return np.where(judged, error, 0.0), np.where(judged, answer.limit, np.inf) ** -2.0


def _fit(
    name: str, error: Array, weight: Array, direction: Array, allowed: Callable[[Array], float]
) -> Fit | None:
    """Least squares over the problems; None if none of them has the direction."""
    weighted = weight * direction
    size = (weighted * direction).sum((2, 3)).ravel()
    if not size.any():
        return None
    along = (weighted * error).sum((2, 3)).ravel()
    total, n = size.sum(), size.size
    value = along.sum() / total
    spread = np.sqrt(((along - value * size) ** 2).sum() * n / (n - 1)) / total
    return Fit(name, value, spread, allowed(weighted) / total, value * along.sum())


def _ulps(x: Array, dtype: str) -> Array:
    """A unit in the last place of each number, with its sign."""
    return np.asarray(np.sign(x) * 2 * half_ulp(x, dtype))
