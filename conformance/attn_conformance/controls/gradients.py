"""Controls whose backward passes are as unlike each other as their rounding allows."""

# ruff: noqa: D102  # what is overridden is documented in the plain kernel

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from attn_conformance.controls import FEATURES, Control, register
from attn_conformance.mutants.differentiable import (
    Differentiable,
    Saved,
    Tensor,
    TwiceDifferentiable,
    hidden,
    softmax,
    widen,
)
from attn_reference.claims import DTYPES, Arithmetic, Claims

C = TypeVar("C", bound=type[Differentiable])

TILE = 16
"""Keys, or queries, that a tiled backward pass takes at once."""


def gradient_control(
    name: str, *, arithmetic: Arithmetic = "fused", dtypes: tuple[str, ...] = DTYPES
) -> Callable[[C], C]:
    """Register a kernel with a backward pass of its own."""

    def decorate(cls: C) -> C:
        kernel = cls()
        kernel.__doc__ = cls.__doc__
        features = (FEATURES - {"scale", "dv"}) | {"gradients"}
        register(
            Control(name, "kernel", kernel, Claims(dtypes=dtypes, features=features, arithmetic=arithmetic))
        )
        return cls

    return decorate


def stored(x: Tensor, like: Tensor) -> Tensor:
    """X rounded to the dtype of the arguments, in the dtype of the computation."""
    return x.to(like.dtype).to(x.dtype)


gradient_control("precise-backward", arithmetic="precise")(Differentiable)
gradient_control("twice-differentiable")(TwiceDifferentiable)


@gradient_control("weights-from-log-sum-exp")
class WeightsFromLogSumExp(Differentiable):
    """One number a row is kept, the log-sum-exp, and the weights are recomputed from it, as flash kernels do."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scores = hidden(x.q @ x.k.mT * x.scale, x.mask, x.is_causal)
        lse = scores.logsumexp(-1, keepdim=True)
        p = (scores - lse.masked_fill(lse == -float("inf"), 0.0)).exp()
        return super().backward(replace(x, p=p), do)


@gradient_control("row-term-from-the-rounded-result")
class RowTermFromTheRoundedResult(Differentiable):
    """D is the product of the output gradient with the result as it was returned."""

    def row_term(self, x: Saved, do: Tensor) -> Tensor:
        return (do * widen(x.out)).sum(-1, keepdim=True)


@gradient_control("rounded-weights-in-the-backward-pass")
class RoundedWeightsInTheBackwardPass(Differentiable):
    """p and ds are rounded to the dtype of the arguments before the products that they enter."""

    def dq(self, x: Saved, ds: Tensor) -> Tensor:
        return super().dq(x, stored(ds, x.out))

    def dk(self, x: Saved, ds: Tensor) -> Tensor:
        return super().dk(x, stored(ds, x.out))

    def dv(self, x: Saved, do: Tensor) -> Tensor:
        return stored(x.p, x.out).mT @ do

    def row_term(self, x: Saved, do: Tensor) -> Tensor:
        return (do * widen(x.out)).sum(-1, keepdim=True)


@gradient_control("tiled-backward")
class TiledBackward(Differentiable):
    """Tiles of keys for the gradient of q, tiles of queries, the last first, for those of k and v."""

    def dq(self, x: Saved, ds: Tensor) -> Tensor:
        tiles = range(0, ds.shape[3], TILE)
        return x.scale * sum((ds[..., j : j + TILE] @ x.k[:, :, j : j + TILE] for j in tiles), 0 * x.q)

    def dk(self, x: Saved, ds: Tensor) -> Tensor:
        return x.scale * _over_queries(ds, x.q, 0 * x.k)

    def dv(self, x: Saved, do: Tensor) -> Tensor:
        return _over_queries(x.p, do, 0 * x.v)


def _over_queries(weights: Tensor, rows: Tensor, nothing: Tensor) -> Tensor:
    tiles = reversed(range(0, weights.shape[2], TILE))
    return sum((weights[:, :, i : i + TILE].mT @ rows[:, :, i : i + TILE] for i in tiles), nothing)


@gradient_control("eager-autograd", arithmetic="eager", dtypes=("float16", "bfloat16"))
class EagerAutograd(Differentiable):
    """Scores and weights are both held in the dtype of the arguments, and so are the gradients that PyTorch makes."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor = None, is_causal: bool = False
    ) -> Tensor:
        group = q.shape[1] // k.shape[1] if k.shape[1] else 1
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        scores = (widen(q) @ widen(k).mT * q.shape[3] ** -0.5).to(q.dtype)
        return (softmax(hidden(widen(scores), mask, is_causal)).to(q.dtype) @ v).to(q.dtype)


@gradient_control("differentiated-maximum")
class DifferentiatedMaximum(Differentiable):
    """PyTorch differentiates the maximum, too, whose key gets what the others' gradients lack to a sum of zero."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor = None, is_causal: bool = False
    ) -> Tensor:
        group = q.shape[1] // k.shape[1] if k.shape[1] else 1
        wide, k, v = widen(q), *(widen(x).repeat_interleave(group, 1) for x in (k, v))
        scores = hidden(wide @ k.mT * q.shape[3] ** -0.5, mask, is_causal)
        if not scores.shape[3]:
            return (scores @ v).to(q.dtype)
        peak = scores.max(-1, keepdim=True).values
        grown = (scores - peak.masked_fill(peak == -float("inf"), 0.0)).exp()
        total = grown.sum(-1, keepdim=True)
        return (grown @ v / total.masked_fill(total == 0, 1.0)).to(q.dtype)
