"""Defects of backward passes: factors a per cent off, parts left out, and numbers held in too few bits."""

# ruff: noqa: D102  # what is overridden is documented in the plain kernel

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

from attn_conformance.controls import FEATURES
from attn_conformance.controls.gradients import TILE
from attn_conformance.controls.gradients import RoundedWeightsInTheBackwardPass as Right
from attn_conformance.defects import Defect, register
from attn_conformance.defects.scores import CUT, LARGEST_FLOAT8
from attn_conformance.mutants.differentiable import Saved, Tensor, hidden, softmax
from attn_conformance.mutants.plain import LOWER
from attn_reference import Claims

C = TypeVar("C", bound=type[Right])

RIGHT = Right()
"""The twin: p and ds are rounded to the dtype of the arguments, D comes from the rounded result."""


def backward_defect(name: str) -> Callable[[C], C]:
    """Register a kernel with a defective backward pass."""

    def decorate(cls: C) -> C:
        kernel = cls()
        kernel.__doc__ = cls.__doc__
        register(Defect(name, kernel, RIGHT, Claims(features=(FEATURES - {"scale", "dv"}) | {"gradients"})))
        return cls

    return decorate


def narrowed(x: Tensor, like: Tensor, dtypes: Mapping[str, Any]) -> Tensor:
    """X rounded to the dtype that the table has for that of `like`."""
    name = np.dtype(dtypes[str(like.dtype).rpartition(".")[2]]).name
    if name == "float8_e4m3fn":
        x = x.clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8)
    return x.to(getattr(import_module("torch"), name)).to(x.dtype)


@backward_defect("scale-1-percent-off-in-the-backward-pass")
class ScaleOnePercentOffInTheBackwardPass(Right):
    """Weights are recomputed with a scale that is 1 % too large, and so are the gradients of q and k."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        p = softmax(hidden(1.01 * x.scale * (x.q @ x.k.mT), x.mask, x.is_causal))
        dq, dk, dv, dmask = super().backward(replace(x, p=p), do)
        return 1.01 * dq, 1.01 * dk, dv, dmask


@backward_defect("query-gradient-1-percent-off")
class QueryGradientOnePercentOff(Right):
    """The gradient of q is 1 % too large."""

    def dq(self, x: Saved, ds: Tensor) -> Tensor:
        return 1.01 * super().dq(x, ds)


@backward_defect("row-term-1-percent-off")
class RowTermOnePercentOff(Right):
    """D is 1 % too large."""

    def row_term(self, x: Saved, do: Tensor) -> Tensor:
        return 1.01 * super().row_term(x, do)


@backward_defect("scores-recomputed-low")
class ScoresRecomputedLow(Right):
    """Scores are recomputed, and stored in a dtype too small for them."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scores = narrowed(hidden(x.q @ x.k.mT * x.scale, x.mask, x.is_causal), x.out, LOWER)
        return super().backward(replace(x, p=softmax(scores)), do)


@backward_defect("score-gradient-in-fewer-bits")
class ScoreGradientInFewerBits(Right):
    """The gradient of the scores is rounded to the next narrower dtype: float8 for bfloat16."""

    def ds(self, x: Saved, do: Tensor) -> Tensor:
        return narrowed(super().ds(x, do), x.out, CUT)


@backward_defect("query-gradient-accumulated-low")
class QueryGradientAccumulatedLow(Right):
    """The gradient of q is summed over tiles of keys in a dtype too small for it."""

    def dq(self, x: Saved, ds: Tensor) -> Tensor:
        total = 0 * x.q
        for j in range(0, ds.shape[3], TILE):
            part = super().dq(replace(x, k=x.k[:, :, j : j + TILE]), ds[..., j : j + TILE])
            total = narrowed(total + part, x.out, LOWER)
        return total


@backward_defect("last-keys-missing-in-the-query-gradient")
class LastKeysMissingInTheQueryGradient(Right):
    """The gradient of q lacks what comes from the last keys: a tile of 16, or half of them if they are fewer."""

    def dq(self, x: Saved, ds: Tensor) -> Tensor:
        kept = ds.shape[3] - min(TILE, ds.shape[3] // 2)
        return super().dq(replace(x, k=x.k[:, :, :kept]), ds[..., :kept])


@backward_defect("first-query-missing-in-the-value-gradient")
class FirstQueryMissingInTheValueGradient(Right):
    """The gradient of v lacks what comes from the first query."""

    def dv(self, x: Saved, do: Tensor) -> Tensor:
        return super().dv(replace(x, p=x.p[:, :, 1:]), do[:, :, 1:])
