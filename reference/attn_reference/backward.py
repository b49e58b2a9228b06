"""The gradients in closed form: what the gradient dO of an output makes of q, k, v and the bias.

With L the quantity that dO = dL/do belongs to, the chain rule gives, for one head,

    dp_ij = sum_c dO_ic v_jc        D_i = sum_c dO_ic o_ic = sum_j p_ij dp_ij
    ds_ij = p_ij (dp_ij - D_i)      which is dp_ij seen through the Jacobian diag(p) - p p^T of a row's softmax
    dq = scale ds k                 dk = scale ds^T q               dv = p^T dO             dbias = ds

where dk and dv add up over the query heads that share a key head, and dbias over the axes that bias is broadcast
along. Every product has a factor p or ds, which are 0 at hidden keys and in empty rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .extended import LONGDOUBLE, DoubleDouble, Real, exactly, solve_extended
from .matrices import Solution, halves, solve
from .problem import Array, Problem


@dataclass(frozen=True)
class Backward:
    """The gradients of a Problem and the quantities they came from.

    do: (B, H, T, Dv), the output's gradient. gradients: "q" (B, H, T, D), "k" (B, Hkv, S, D), "v" (B, Hkv, S, Dv)
    and "bias", of the shape of problem.bias. low: what these lost in rounding to float64, 0 unless a longer
    precision was used. dp: (B, H, T, S), the gradients of the weights. D: (B, H, T, 1), their means under the
    weights. ds: (B, H, T, S), the gradients of the scores. dp and ds are 0 at hidden keys.
    """

    solution: Solution
    do: Array
    gradients: Mapping[str, Array]
    low: Mapping[str, Array]
    dp: Array
    D: Array
    ds: Array


@np.errstate(all="ignore")  # as in `solve`
def solve_backward(
    problem: Problem, do: Array, extended: bool = False, use_longdouble: bool = LONGDOUBLE
) -> Backward:
    """The gradients of sum(do * o), o being the problem's result; do: (B, H, T, Dv), finite, counts as exact.

    extended: gradients + low are good to at least 11 bits more than float64, in the arithmetic that use_longdouble
    chooses as for `solve_extended`. Hidden keys, values and bias have no influence and exactly zero gradients, and
    so have empty rows. NaN in a visible input reaches every gradient that depends on it.
    """
    zero = np.zeros(())
    inputs = (problem.q, problem.k, problem.v, do)
    if not extended:
        return differentiate(problem, solve(problem), inputs, rounded)[0]
    solution = solve_extended(problem, use_longdouble=use_longdouble)
    if use_longdouble:
        return differentiate(problem, solution, tuple(longdouble(x, zero) for x in inputs), longdouble)[0]
    return differentiate(problem, solution, tuple(exactly(x) for x in inputs), DoubleDouble)[0]


def rounded(high: Array, low: Array) -> Array:
    """The number high + low in float64 arithmetic."""
    return high


def longdouble(high: Array, low: Array) -> Array:
    """The number high + low in long double arithmetic."""
    return high.astype(np.longdouble) + low


def differentiate(
    problem: Problem, solution: Solution, inputs: tuple[Real, ...], lift: Callable[[Array, Array], Real]
) -> tuple[Backward, dict[str, Real]]:
    """The closed form in the arithmetic of `inputs`, which are q, k, v and dO.

    Its result, and the gradients before they are rounded. problem: that of the rounded inputs. solution: that of the
    inputs themselves. lift: takes a number, given as high + low, into the arithmetic.
    """
    # The query heads of one key head, end to end, are one taller matrix, as in `grouped`.
    q, k, v, do = inputs
    Hkv = k.shape[1]
    q, do, visible = (
        stack(q, Hkv),
        stack(do, Hkv),
        stack(np.broadcast_to(problem.visible, problem.shape), Hkv),
    )
    p = only(visible, stack(lift(solution.p, solution.p_low), Hkv))
    o = stack(lift(solution.o, solution.o_low), Hkv)
    q, k, v = (only(np.isfinite(rounded_halves(x)[0]), x) for x in (q, k, v))  # NaN is in p and o already
    scale = lift(np.array(problem.scale), np.zeros(()))

    dp = do @ v.swapaxes(-1, -2)
    D = (do * o).sum(-1, keepdims=True)
    ds = only(visible, p * (dp - D))
    dq, dk, dv = ds @ k * scale, ds.swapaxes(-1, -2) @ q * scale, p.swapaxes(-1, -2) @ do
    ds = ds.reshape(*problem.shape)
    dbias = ds
    for axis in range(4):
        if problem.bias.shape[axis] != problem.shape[axis]:
            dbias = dbias.sum(axis, keepdims=True)

    found = {"q": dq.reshape(*problem.q.shape), "k": dk, "v": dv, "bias": dbias}
    both = {name: rounded_halves(x) for name, x in found.items()}
    backward = Backward(
        solution,
        rounded_halves(do)[0].reshape(solution.o.shape),
        {name: high for name, (high, _) in both.items()},
        {name: low for name, (_, low) in both.items()},
        rounded_halves(only(visible, dp))[0].reshape(problem.shape),
        rounded_halves(D)[0].reshape(solution.m.shape),
        rounded_halves(ds)[0],
    )
    return backward, found


def only(where: Array, x: Real) -> Real:
    """The numbers x where they count, 0 elsewhere, whatever x holds there."""
    if isinstance(x, DoubleDouble):
        return DoubleDouble(np.where(where, x.high, 0.0), np.where(where, x.low, 0.0))
    return np.where(where, x, 0)


def rounded_halves(x: Real) -> tuple[Array, Array]:
    """Each x rounded to float64, and what the rounding lost."""
    return (x.high, x.low) if isinstance(x, DoubleDouble) else halves(x)


def stack(x: Real, Hkv: int) -> Real:
    """(B, H, T, n) to (B, Hkv, H / Hkv * T, n)."""
    B, H, T, n = x.shape
    return x.reshape(B, Hkv, H // Hkv * T, n)
