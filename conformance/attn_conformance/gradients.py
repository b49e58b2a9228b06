"""Gradients: what the oracle allows for that of each input, and the verdict on those that came back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from attn_conformance.judge import MATTERS, Answer, Array, Comparison, Evidence, Failed, compare
from attn_reference import (
    Backward,
    ForwardBackward,
    ForwardProblem,
    Problem,
    backward_bound,
    forward_backward_bound,
    half_ulp,
    largest,
    limit,
    solve_backward,
    solve_forward_backward,
    unit_roundoff,
)
from attn_reference.claims import Arithmetic
from attn_reference.pair_errors import copies


@dataclass(frozen=True, eq=False)
class Gradient:
    """What the oracle allows for the gradient of the input `of`, whose shape and dtype it has, from a given dout.

    answer: with four axes, the first ones of length 1 where the input has fewer.
    """

    of: str
    answer: Answer
    shape: tuple[int, ...]
    dtype: str
    dout: Array

    @property
    def value(self) -> Array:
        """In the shape of the input."""
        return self.answer.value.reshape(self.shape)

    def evidence(self, got: Array, misread: Array | None = None) -> Evidence:
        """That a gradient is wrong. misread: the output gradient as it lies in memory, if not in order."""
        exact = None if misread is None else misread.astype(np.float64)
        return Evidence(_four(got), self.answer, of=self.of, dout=self.dout, misread=exact)

    def doubled(self, value: Array) -> Gradient:
        """What a second pass may give when the first gave `value`: both lie within the limit of one truth."""
        return replace(self, answer=self.answer.doubled(_four(value)))


def ask_gradients(
    problem: Problem | ForwardProblem,
    dout: Array,
    inputs: Mapping[str, Array],
    dtype: str,
    arithmetic: Arithmetic,
) -> dict[str, Gradient]:
    """What the oracle allows for the gradients of `inputs`: arrays by name, in the shapes in which they are judged.

    dout: float64, exact. dtype: that of q or x; a parameter or mask in another dtype has its gradient rounded twice.
    """
    extended = dtype == "float64"
    backward: Backward | ForwardBackward
    if isinstance(problem, Problem):
        backward = solve_backward(problem, dout, extended)
        spreads = backward_bound(problem, backward, dtype, arithmetic)
    else:
        backward = solve_forward_backward(problem, dout, extended)
        spreads = forward_backward_bound(problem, backward, dtype, arithmetic)
    found = {}
    for of, array in inputs.items():
        name = "bias" if of == "mask" and isinstance(problem, Problem) else of
        kind = str(array.dtype.name)
        value, low, spread = (
            _four(part) for part in (backward.gradients[name], backward.low[name], spreads[name])
        )
        if of == "mask" and unit_roundoff(kind) > unit_roundoff(dtype):
            core = backward.core if isinstance(backward, ForwardBackward) else backward
            spread = spread + _summed_in(kind, core.ds, value.shape)
        most = _limit(value, spread, dtype, kind)
        answer = Answer(value, low, most, np.arange(value.shape[2]), problem, dtype, arithmetic)
        found[of] = Gradient(of, answer, array.shape, kind, dout)
    return found


def _four(array: Array) -> Array:
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def _summed_in(kind: str, ds: Array, shape: tuple[int, ...]) -> Array:
    """How far the gradients of scores may stray, before the last rounding, that are summed in a mask's coarser dtype.

    Each of n is rounded to it first, and n - 2 sums before the last are, by a unit roundoff of all n at most: like a
    random walk, but for equal numbers, which err to one side one after the other. A single one is rounded once.
    """
    axes = [axis for axis in range(4) if shape[axis] != ds.shape[axis]]
    size = np.moveaxis(np.abs(ds), axes, range(4 - len(axes), 4))
    size = size.reshape(*size.shape[: 4 - len(axes)], -1)
    n = size.shape[-1]
    ties = (copies(size, unit_roundoff(kind)) * (size > 0)).sum(-1)
    walk = np.minimum(n - 1, 1 + np.sqrt(np.maximum(n, ties)))
    return np.asarray(unit_roundoff(kind) * walk * size.sum(-1)).reshape(shape)


def _limit(value: Array, spread: Array, computed: str, stored: str) -> Array:
    """The largest error that passes where a gradient is computed in one dtype and stored in another."""
    if computed == stored:
        return limit(value, spread, stored)
    reach = np.abs(value) + spread
    most = limit(value, spread + half_ulp(reach, computed), stored)
    return np.where(reach > largest(computed), np.inf, most)


def within(got: Mapping[str, Array | None], asked: Mapping[str, Gradient]) -> None:
    """Every element of every gradient is within its limit, else Failed; None stands for zeros."""
    for of, gradient in asked.items():
        array = got[of]
        held = np.zeros(gradient.shape, np.float64) if array is None else array
        comparison = compared(held, gradient)
        if not comparison.ok:
            what = (
                f"no gradient came back for {of}, which has influence"
                if array is None
                else f"gradient of {of}"
            )
            raise Failed(f"{what}: {comparison.explain()}", comparison, gradient.evidence(held))


def compared(got: Array, gradient: Gradient) -> Comparison:
    """Judge a gradient in the shape of its input; where an intermediate may overflow, NaN is no worse than infinity."""
    answer = gradient.answer
    held = _four(got)
    held = np.where(np.isinf(answer.limit) & np.isnan(held), np.zeros((), held.dtype), held)
    comparison = compare(held, answer)
    if comparison.first is None or comparison.worst is None:
        return comparison
    axes = len(gradient.shape)
    first, worst = (replace(e, index=e.index[4 - axes :]) for e in (comparison.first, comparison.worst))
    return replace(comparison, first=first, worst=worst)


def departs(asked: Mapping[str, Gradient], others: Mapping[str, Gradient | Array]) -> bool:
    """Whether one of other gradients has an element more than MATTERS bounds away from the right one's."""
    for of, other in others.items():
        gradient = asked[of]
        value = other.value if isinstance(other, Gradient) else other
        with np.errstate(invalid="ignore"):
            if np.any(
                np.abs(value - gradient.value) > MATTERS * gradient.answer.limit.reshape(gradient.shape)
            ):
                return True
    return False
