"""The gradients of a whole forward call in closed form: the kernel's, carried through the four projections.

For y = x W^T + b with the gradient dY of y, the chain rule gives dx = dY W, dW = dY^T x and db = sum dY over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backward import Backward, differentiate, only, rounded, rounded_halves
from .extended import DoubleDouble, Real, exactly
from .forward import (
    PROJECTIONS,
    ForwardProblem,
    ForwardSolution,
    extended_heads,
    merge_heads,
    solve_forward,
    split_heads,
)
from .problem import Array


@dataclass(frozen=True)
class ForwardBackward:
    """The gradients of a ForwardProblem and the quantities they came from.

    solution: the forward solution. dy: (B, T, N), the result's gradient. gradients: "x", to which all three products
    contribute in self-attention; "xa", in cross-attention only; the parameters by the names of the specification
    (CTOR-4), "key.bias" among them; "mask", where it is floating: each shaped as what it belongs to. low: what these
    lost in rounding to float64, 0 unless a longer precision was used. core: the kernel's gradients between the
    projections, `do` rounded to float64.
    """

    solution: ForwardSolution
    dy: Array
    gradients: Mapping[str, Array]
    low: Mapping[str, Array]
    core: Backward


@np.errstate(all="ignore")  # as in `solve_forward`
def solve_forward_backward(problem: ForwardProblem, dy: Array, extended: bool = False) -> ForwardBackward:
    """The gradients of sum(dy * y), y being the problem's result; dy: (B, T, N), finite, counts as exact.

    extended: gradients + low are good to at least 11 bits more than float64. Keys that no query sees have no
    influence, whatever src holds there, and get exactly zero gradients.
    """
    solution = solve_forward(problem, extended)
    if extended:
        return _differentiate(problem, solution, dy, extended_heads(problem), exactly, DoubleDouble)
    core = solution.core
    return _differentiate(problem, solution, dy, (core.q, core.k, core.v), np.asarray, rounded)


def _differentiate(
    problem: ForwardProblem,
    solution: ForwardSolution,
    dy: Array,
    heads: tuple[Real, ...],
    exact: Callable[[Array], Real],
    lift: Callable[[Array, Array], Real],
) -> ForwardBackward:
    """The chain rule in the arithmetic of `heads`, which are q, k and v; exact and lift take numbers into it."""
    attention = solution.attention
    weights = {name: exact(weight) for name, weight in problem.weights.items()}
    do = split_heads(exact(dy) @ weights["out"], problem.n_head)
    q, k, v = heads
    core, found = differentiate(solution.core, attention, (q, k, v, do), lift)

    outputs: dict[str, Any] = {name: merge_heads(found[name[0]]) for name in PROJECTIONS[:3]}
    outputs["out"] = exact(dy)
    x, src = (only(np.isfinite(a), exact(a)) for a in (problem.x, problem.src))
    o = merge_heads(lift(attention.o, attention.o_low))
    inputs: dict[str, Any] = {"query": x, "key": src, "value": src, "out": o}
    gradients: dict[str, Any] = {}
    for name, dY in outputs.items():
        rows = dY.reshape(-1, dY.shape[2])
        gradients[f"{name}.weight"] = rows.swapaxes(0, 1) @ inputs[name].reshape(-1, dY.shape[2])
        gradients[f"{name}.bias"] = rows.sum(0, keepdims=True).reshape(-1)

    through = {name: outputs[name] @ weights[name] for name in PROJECTIONS[:3]}
    sources = through["key"] + through["value"]
    gradients["x"] = through["query"] if problem.crossed else through["query"] + sources
    if problem.crossed:
        gradients["xa"] = sources
    if problem.mask is not None and problem.mask.dtype != bool:
        gradients["mask"] = found["bias"].reshape(*problem.mask.shape)
    both = {name: rounded_halves(gradient) for name, gradient in gradients.items()}
    return ForwardBackward(
        solution,
        dy,
        {name: high for name, (high, _) in both.items()},
        {name: low for name, (_, low) in both.items()},
        core,
    )
