"""Lies about precision, range, NaN, and how much memory the scores take."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

import ml_dtypes
import numpy as np

from attn_conformance.mutants import mask_values, nan, precision, softmax
from attn_conformance.mutants.modules import Array, Pair, Plain, module_mutant
from attn_conformance.mutants.plain import masked, product, scores, triangle
from attn_conformance.mutants.plain import softmax as softmax_of

# --- the error of every element


@module_mutant(
    "weights-in-bfloat16-in-the-module",
    requirement="NUM-1",
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/issues/179578",),
)
class WeightsInBfloat16InTheModule(Plain):
    """Weights are rounded to bfloat16 before they meet the values, whatever the dtype of the inputs."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return precision.weights_in_bfloat16(q, k, v, mask, self.causal)


@module_mutant(
    "keys-and-values-in-bfloat16",
    requirement="NUM-1",
    least={"T": 8, "S": 8},
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/issues/179578",),
)
class KeysAndValuesInBfloat16(Plain):
    """Projected keys and values pass through bfloat16, whatever the dtype of the inputs."""

    def project(self, source: Array) -> Pair:
        k, v = (x.astype(ml_dtypes.bfloat16).astype(x.dtype) for x in super().project(source))
        return k, v


@module_mutant(
    "epsilon-in-denominator-in-the-module",
    requirement="NUM-1",
    least={"T": 8, "S": 100},
    bug_class="SOFTMAX",
    seen_in=("https://github.com/OpenNMT/CTranslate2/pull/1468",),
)
class EpsilonInDenominatorInTheModule(Plain):
    """1e-3 is added to the sum of exponentials, to keep it from 0; a few keys in float32 show it best."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return softmax.epsilon_in_denominator(q, k, v, mask, self.causal)


@module_mutant(
    "float64-module-computed-in-float32",
    requirement="NUM-1",
    least={"S": 1024},
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/issues/141756",),
)
class Float64ModuleComputedInFloat32(Plain):
    """What lies between the projections is computed in float32, for float64 inputs too."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return precision.float64_computed_in_float32(q, k, v, mask, self.causal)


# --- large scores


@module_mutant(
    "no-peak-subtraction-in-the-module",
    requirement="NUM-2",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/torch-spyre/torch-spyre/pull/4522",),
)
class NoPeakSubtractionInTheModule(Plain):
    """No maximum is subtracted before exp: beyond logits of 88 (float32) it overflows."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return softmax.no_peak_subtraction(q, k, v, mask, self.causal)


@module_mutant(
    "scores-of-the-module-in-half-before-scaling",
    requirement="NUM-2",
    least={"S": 13},
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/pull/165961",),
)
class ScoresOfTheModuleInHalfBeforeScaling(Plain):
    """float16 inputs: q k^T is kept in float16 and scaled there, and overflows beyond 65504."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return precision.scores_in_half_before_scaling(q, k, v, mask, self.causal)


@module_mutant(
    "forbidden-filled-with-minus-1e4-in-the-module",
    requirement="NUM-3",
    bug_class="FILL",
    seen_in=("https://github.com/hyunwoongko/transformer/pull/40",),
)
class ForbiddenFilledWithMinus1e4InTheModule(Plain):
    """A forbidden logit is set to -10000, which wins where the visible ones lie below that."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return mask_values.forbidden_filled_with_minus_1e4(q, k, v, mask, self.causal)


@module_mutant(
    "peak-never-below-zero-in-the-module",
    requirement="NUM-3",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/pytorch/pytorch/issues/196678",),
)
class PeakNeverBelowZeroInTheModule(Plain):
    """The running maximum starts at 0: a row of logits below -104 comes out as zeros."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return softmax.peak_never_below_zero(q, k, v, mask, self.causal)


# --- NaN


@module_mutant(
    "nan-becomes-zero-in-the-module",
    requirement="NUM-4",
    bug_class="NANIN",
    seen_in=("https://github.com/pytorch/pytorch/issues/141128",),
)
class NanBecomesZeroInTheModule(Plain):
    """NaN in the result is replaced by 0, which hides the fault in the inputs."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return nan.nan_becomes_zero(q, k, v, mask, self.causal)


# --- systematic bias


class RoundedWeights(Plain):
    """Right: weights are rounded to the dtype of x before they meet the values."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return precision.rounded_weights(q, k, v, mask, self.causal)


@module_mutant(
    "reciprocal-of-eleven-bits-in-the-module",
    requirement="NUM-5",
    least={"B": 32, "T": 16, "S": 16},
    bug_class="PREC",
    seen_in=("https://github.com/tenstorrent/tt-llk/issues/1406",),
    twin=RoundedWeights,
    dtypes=("bfloat16",),
)
class ReciprocalOfElevenBitsInTheModule(RoundedWeights):
    """The sum of the weights is inverted to 11 bits, cut, without a Newton step: outputs come out 0.04 % too small."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return precision.reciprocal_of_eleven_bits(q, k, v, mask, self.causal)


# --- memory


@module_mutant(
    "two-copies-of-the-scores-in-float64",
    requirement="MEM-1",
    least={"T": 4096, "S": 4096},
    features=("linear-memory",),
    bug_class="PERF",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/97514",
        "https://github.com/keras-team/keras/pull/22910",
    ),
)
class TwoCopiesOfTheScoresInFloat64(Plain):
    """A T x S mask and the scores are held in float64, and a copy of both is kept until the result is there."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        bias = np.zeros((*q.shape[:3], k.shape[2]))
        if self.causal:
            bias[..., ~triangle(q.shape[2], k.shape[2])] = -np.inf
        logits = scores(q.astype(np.float64), k.astype(np.float64))
        copies = logits.copy(), bias.copy()
        seen = masked(copies[0] + copies[1], mask)
        return product(softmax_of(np.where(np.isneginf(bias), bias, seen)), v.astype(np.float64), q.dtype)
