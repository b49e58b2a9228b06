"""A whole forward call of a module, in more digits than float64 has: projections, attention, out projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .extended import DoubleDouble, Real, exactly, solve_extended
from .lowering import lower
from .matrices import Solution, solve
from .problem import Array, Problem

PROJECTIONS = ("query", "key", "value", "out")


@dataclass(frozen=True)
class ForwardProblem:
    """The call `forward(x, xa, mask)` with all conventions resolved; arrays are float64 and hold the inputs exactly.

    x: (B, T, N), N = n_state. src: (B, S, N), what keys and values are projected from. weights: name of the
    projection to (N, N), (out features, in features); biases: to (N,). mask and is_causal: as for `lower`.
    crossed: x and src are two inputs, in self-attention they are one.
    """

    x: Array
    src: Array
    weights: Mapping[str, Array]
    biases: Mapping[str, Array]
    n_head: int
    mask: Array | None
    is_causal: bool
    crossed: bool

    def source(self, name: str) -> Array:
        """What the projection `name` is applied to: query, key or value."""
        return self.x if name == "query" else self.src


@dataclass(frozen=True)
class ForwardSolution:
    """The result of a ForwardProblem and the quantities it came from.

    y: (B, T, N), the result. y_low: (B, T, N), what y lost in rounding to float64, 0 unless a longer precision
    was used. core: the kernel's problem between the projections, q, k and v (B, H, T or S, D) rounded to
    float64. attention: its solution, without that rounding where a longer precision was used.
    """

    y: Array
    y_low: Array
    core: Problem
    attention: Solution


def lower_forward(
    params: Mapping[str, Array],
    x: Array,
    src: Array,
    *,
    n_head: int,
    mask: Array | None = None,
    is_causal: bool = False,
) -> ForwardProblem:
    """The problem that a forward call poses.

    params: by the names of the specification (CTOR-4), in the dtype that is computed in; key.bias may be given
    too. x: (B, T, n_state); src: (B, S, n_state), in self-attention x itself. mask: (T, S) or 4-D, or None.
    The arrays are copied. Nothing is checked here: `check_forward_call` does that.
    """
    n_state = x.shape[2]
    weights = {name: np.array(params[f"{name}.weight"], np.float64) for name in PROJECTIONS}
    biases = {
        name: np.array(params.get(f"{name}.bias", np.zeros(n_state)), np.float64) for name in PROJECTIONS
    }
    crossed = src is not x
    x, src = (np.array(a, np.float64, order="C") for a in (x, src))
    mask = None if mask is None else mask.copy()
    return ForwardProblem(x, src, weights, biases, n_head, mask, is_causal, crossed)


def split_heads(x: Real, n_head: int) -> Real:
    """(B, T, N) to (B, H, T, D): heads are runs of D consecutive elements."""
    B, T, N = x.shape
    return x.reshape(B, T, n_head, N // n_head).swapaxes(1, 2)


def merge_heads(o: Real) -> Real:
    """(B, H, T, D) to (B, T, N), the inverse of `split_heads`."""
    B, H, T, D = o.shape
    return o.swapaxes(1, 2).reshape(B, T, H * D)


@np.errstate(all="ignore")  # NaN inputs are answered by value, as in `solve`
def solve_forward(problem: ForwardProblem, extended: bool = False) -> ForwardSolution:
    """A forward call as in section 1 of the specification.

    extended: y + y_low is good to at least 11 bits more than float64, so that float64 implementations can be
    judged. Keys and values that a mask hides have no influence; NaN that is seen reaches what depends on it.
    """
    if extended:
        return _solve_extended(problem)
    q, k, v = (
        split_heads(problem.source(name) @ problem.weights[name].T + problem.biases[name], problem.n_head)
        for name in PROJECTIONS[:3]
    )
    core = lower(q, k, v, problem.mask, problem.is_causal)
    attention = solve(core)
    y = merge_heads(attention.o) @ problem.weights["out"].T + problem.biases["out"]
    return ForwardSolution(y, np.zeros_like(y), core, attention)


def extended_heads(problem: ForwardProblem) -> tuple[DoubleDouble, ...]:
    """q, k and v (B, H, T or S, D) of a forward call, in double-double arithmetic."""
    return tuple(
        split_heads(_project(problem, name, exactly(problem.source(name))), problem.n_head)
        for name in PROJECTIONS[:3]
    )


def _solve_extended(problem: ForwardProblem) -> ForwardSolution:
    q, k, v = extended_heads(problem)
    core = lower(q.high, k.high, v.high, problem.mask, problem.is_causal)
    # A kernel's problem holds float64 alone: the halves of q and k become parts of longer heads, those of v
    # become values side by side.
    halves = replace(
        core,
        q=np.concatenate([q.high, q.low, q.high, q.low], -1),
        k=np.concatenate([k.high, k.high, k.low, k.low], -1),
        v=np.concatenate([v.high, v.low], -1),
    )
    found = solve_extended(halves)
    D = v.high.shape[3]
    o = DoubleDouble(found.o[..., :D], found.o_low[..., :D]) + DoubleDouble(
        found.o[..., D:], found.o_low[..., D:]
    )
    attention = replace(found, o=o.high, o_low=o.low)
    y = _project(problem, "out", merge_heads(o))
    return ForwardSolution(y.high, y.low, core, attention)


def _project(problem: ForwardProblem, name: str, x: DoubleDouble) -> DoubleDouble:
    return x @ exactly(problem.weights[name].T) + exactly(problem.biases[name])
