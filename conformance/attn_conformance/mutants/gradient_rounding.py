"""Lies about rounding in a backward pass: each element may be within its bound, all of them lean to one side."""

# ruff: noqa: D102  # what is overridden is documented in the plain kernel

from __future__ import annotations

from typing import Any

from attn_conformance.mutants.differentiable import Differentiable, Saved, Tensor, widen
from attn_conformance.mutants.gradients import gradient_mutant


def cut(x: Tensor, dtype: Any) -> Tensor:
    """X in a shorter dtype, not rounded to nearest but towards 0."""
    rounded = x.to(dtype)
    return rounded.where(rounded.abs() <= x.abs(), rounded.nextafter(0 * rounded))


@gradient_mutant(
    "row-term-of-a-cut-result",
    requirement="NUM-5",
    least={"B": 32, "T": 16, "S": 16},
    bug_class="PREC",
    seen_in=(
        "https://github.com/sgl-project/sglang/pull/28650",
        "https://github.com/ROCm/composable_kernel/pull/631",
    ),
    dtypes=("bfloat16",),
)
class RowTermOfACutResult(Differentiable):
    """D is taken from a result that was cut to bfloat16, not rounded: it comes out 0.3 % too small."""

    def row_term(self, x: Saved, do: Tensor) -> Tensor:
        return (do * widen(cut(x.p @ x.v, x.out.dtype))).sum(-1, keepdim=True)


@gradient_mutant(
    "weights-cut-in-the-backward-pass",
    requirement="NUM-5",
    least={"B": 32, "T": 16, "S": 16},
    bug_class="PREC",
    seen_in=("https://github.com/ROCm/composable_kernel/pull/631",),
    dtypes=("bfloat16",),
)
class WeightsCutInTheBackwardPass(Differentiable):
    """Weights are cut to bfloat16 before the gradient of v is summed, which comes out 0.3 % too small."""

    def dv(self, x: Saved, do: Tensor) -> Tensor:
        return widen(cut(x.p, x.out.dtype)).mT @ do


@gradient_mutant(
    "score-gradient-cut-before-that-of-the-keys",
    requirement="NUM-5",
    least={"B": 32, "T": 16, "S": 16},
    bug_class="PREC",
    seen_in=("https://github.com/ROCm/composable_kernel/pull/631",),
    dtypes=("bfloat16",),
)
class ScoreGradientCutBeforeThatOfTheKeys(Differentiable):
    """The gradient of the scores is cut to bfloat16 before that of k is summed, which comes out 0.3 % too small."""

    def dk(self, x: Saved, ds: Tensor) -> Tensor:
        return x.scale * (widen(cut(ds, x.out.dtype)).mT @ x.q)
