"""The rule that tells slower from not slower: exact bounds of the median ratio of pairs, looked at a few times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, exp, inf, log, log1p
from statistics import median
from typing import Any, Literal

Verdict = Literal["regressed", "fine", "inconclusive"]

MAD_TO_SIGMA = 1.4826
"""What the median absolute deviation of a normal sample is multiplied by to estimate its standard deviation."""


@dataclass(frozen=True)
class Decision:
    """What the pairs show.

    ratio: median of candidate's time over base's, between low and high with the rule's confidence, its bias included.
    noise: robust standard deviation of its logarithm. rounds: pairs looked at.
    """

    verdict: Verdict
    ratio: float
    low: float
    high: float
    noise: float
    rounds: int


@dataclass(frozen=True)
class Rule:
    """Three verdicts, and the error that each may have.

    regressed: with confidence the candidate takes more than 1 + margin of the base's time; fine: with confidence less
    than 1 + delta. alpha: the chance that all looks together give a wrong bound, on either side. noise: above this
    standard deviation of a pair's log ratio a bound has to be farther off by as much as the pairs scatter. bias: by how
    much the log ratio of two copies of one code may be off as long as a process lasts, by nothing but where their
    memory lies; more rounds do not lessen it, so bounds are wider by it. 0.80 % was the most in 900 processes. patient:
    what is fine, but with a median above 1 + margin, is looked at again as long as it can be. inconclusive is never a
    pass.
    """

    margin: float = 0.02
    delta: float = 0.05
    alpha: float = 0.01
    looks: tuple[int, ...] = (12, 20, 40, 80, 160, 320)
    noise: float = 0.05
    bias: float = 0.005
    patient: bool = True

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Rule:
        """What `asdict` made of a rule; the first had no bias, and were not patient."""
        return Rule(**{"bias": 0.0, "patient": False, **data, "looks": tuple(data["looks"])})

    def decide(
        self, base: Sequence[float], candidate: Sequence[float], benchmarks: int = 1
    ) -> Decision | None:
        """The decision after these pairs of seconds; None if they are not enough and more may be had.

        Pairs between two looks wait for the next. benchmarks: among how many decisions alpha is shared.
        """
        n = len(base)
        due = [look for look in self.looks if look <= n]
        if not due:
            return None
        return self._look(base, candidate, due[-1], benchmarks)

    def _look(
        self, base: Sequence[float], candidate: Sequence[float], n: int, benchmarks: int
    ) -> Decision | None:
        logs = sorted(log(c / b) for b, c in zip(base[:n], candidate[:n], strict=True))
        low, high = median_bounds(logs, self.alpha / (len(self.looks) * benchmarks))
        low, high, noise = low - self.bias, high + self.bias, robust_sigma(logs)
        middle = median(logs)
        verdict = self.verdict(low, high, noise)
        hasty = self.patient and verdict == "fine" and middle > log1p(self.margin)
        if (verdict == "inconclusive" or hasty) and n != self.looks[-1]:
            return None
        return Decision(verdict, exp(middle), exp(low), exp(high), noise, n)

    def verdict(self, low: float, high: float, noise: float) -> Verdict:
        """What bounds of the log ratio and its noise say."""
        apart = noise if noise > self.noise else 0.0
        if low - apart > log1p(self.margin):
            return "regressed"
        if high + apart < log1p(self.delta):
            return "fine"
        return "inconclusive"


def robust_sigma(values: Sequence[float]) -> float:
    """The standard deviation that the median absolute deviation stands for."""
    middle = median(values)
    return MAD_TO_SIGMA * median(abs(x - middle) for x in values)


def median_bounds(ordered: Sequence[float], alpha: float) -> tuple[float, float]:
    """Order statistics between which the median lies, either but with probability alpha; infinite if too few."""
    rank = rank_of_bound(len(ordered), alpha)
    return (ordered[rank - 1], ordered[-rank]) if rank else (-inf, inf)


@cache
def rank_of_bound(n: int, alpha: float) -> int:
    """The largest k such that the k-th smallest of n exceeds the median with probability at most alpha; 0: none.

    At least k of n observations lie at or above it unless fewer than k lie below the median: a sign test.
    """
    total, k = 0, 0
    while k < n and (total := total + comb(n, k)) <= alpha * 2**n:
        k += 1
    return k
