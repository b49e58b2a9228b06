"""Second gradients in closed form: those of the sum of directions times gradients, in q, k, v and the output gradient.

First gradients are products of dout with the derivatives of the output, so that sum is <dout, o'>, where o' is the
derivative of o along the directions. Its gradient in dout is o' itself, and in q, k and v the derivative of the first
gradients along the directions: second derivatives do not depend on their order.

How exactly: every result is a sum of products. The same sums of absolute values, with no difference taken, tell how
large the terms are that each element is added up from; roundings are a multiple of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_conformance.judge import Answer
from attn_reference import Arithmetic, Problem, half_ulp, solve, unit_roundoff

Array = NDArray[np.float64]

LEEWAY = 8.0
"""How many times the roundings that a sum may collect in the worst case: the terms have passed through five sums."""

TF32 = 2.0**-11
"""Roundoff of the factors of matrix products in that arithmetic."""


@dataclass(frozen=True, eq=False)
class _Terms:
    """What derivatives are computed from: q, k, v and dout, the directions dq, dk, dv and the weights p.

    less: what a subtracted number counts for, -1, or +1 where sizes are added up.
    """

    q: Array
    k: Array
    v: Array
    dout: Array
    dq: Array
    dk: Array
    dv: Array
    p: Array
    scale: float
    less: float

    def derivatives(self) -> dict[str, Array]:
        """By input, with a key head for each query head; primed names are derivatives along the directions."""
        q, k, v, dout, p, less = self.q, self.k, self.v, self.dout, self.p, self.less
        s1 = self.scale * (self.dq @ _t(k) + q @ _t(self.dk))
        p1 = p * (s1 + less * (p * s1).sum(-1, keepdims=True))
        dp, dp1 = dout @ _t(v), dout @ _t(self.dv)
        row = (p * dp).sum(-1, keepdims=True)
        row1 = (p1 * dp + p * dp1).sum(-1, keepdims=True)
        ds = p * (dp + less * row)
        ds1 = p1 * (dp + less * row) + p * (dp1 + less * row1)
        return {
            "q": self.scale * (ds1 @ k + ds @ self.dk),
            "k": self.scale * (_t(ds1) @ q + _t(ds) @ self.dq),
            "v": _t(p1) @ dout,
            "dout": p1 @ v + p @ self.dv,
        }


def ask_second_gradients(
    problem: Problem, dout: Array, directions: Mapping[str, Array], dtype: str, arithmetic: Arithmetic
) -> dict[str, Answer]:
    """What the oracle allows, by input; directions: of q, k and v, in their shapes; dtype: float64 or float32."""
    group = problem.shape[1] // problem.k.shape[1]

    def spread(array: Array) -> Array:
        return np.repeat(array, group, 1)

    inputs = {
        "q": problem.q,
        "k": spread(problem.k),
        "v": spread(problem.v),
        "dout": dout,
        "dq": directions["q"],
        "dk": spread(directions["k"]),
        "dv": spread(directions["v"]),
    }
    p = solve(problem).p
    values = _Terms(**inputs, p=p, scale=problem.scale, less=-1.0).derivatives()
    absolute = {name: np.abs(array) for name, array in inputs.items()}
    sizes = _Terms(**absolute, p=p, scale=abs(problem.scale), less=1.0).derivatives()

    T, S, D = problem.shape[2], problem.shape[3], problem.q.shape[3]
    scores = abs(problem.scale) * (absolute["q"] @ _t(absolute["k"])) + np.abs(problem.bias)
    # A weight has the error of its score, which is a sum of D terms, and of the sum over keys.
    roundings = (D + 4) * (1 + float(scores.max(initial=0.0))) + T + S
    unit = TF32 if (arithmetic, dtype) == ("tf32", "float32") else unit_roundoff(dtype)
    answers = {}
    for name, value in values.items():
        size = sizes[name]
        if name in ("k", "v"):
            value, size = (_summed(array, group) for array in (value, size))
        limit = LEEWAY * roundings * unit * size + half_ulp(size, dtype)
        answers[name] = Answer(value, np.zeros_like(value), limit, np.arange(value.shape[2]))
    return answers


def _t(array: Array) -> Array:
    return array.swapaxes(-1, -2)


def _summed(array: Array, group: int) -> Array:
    """The sum over the query heads that share a key head."""
    B, H, S, D = array.shape
    return np.asarray(array.reshape(B, H // group, group, S, D).sum(2))
