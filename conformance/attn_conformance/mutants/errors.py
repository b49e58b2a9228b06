"""Lies about wrong calls, told by kernels that claim to validate: what is accepted, cut, padded or raised."""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.mutants import mutant, quiet
from attn_conformance.mutants.plain import Array, attention, is_bool, is_float, widen
from attn_reference.errors import check_kernel_call

VALIDATES = ("validates",)


@quiet
def checked(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """Right: the plain kernel behind a check of all arguments."""
    check_kernel_call(q, k, v, mask, is_causal)
    return attention(q, k, v, mask, is_causal)


def _ranked(*arrays: Any) -> bool:
    """Whether all arguments are arrays of rank 4, so that a lie can look at their shapes."""
    return all(isinstance(x, np.ndarray) and x.ndim == 4 for x in arrays)


# --- masks


@mutant(
    "long-mask-cut",
    requirement="MASK-9",
    bug_class="VALID",
    seen_in=(
        "https://github.com/flashinfer-ai/flashinfer/issues/3176",
        "https://github.com/huggingface/transformers/issues/13175",
    ),
    twin=checked,
    features=VALIDATES,
)
def long_mask_cut(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """A mask for more queries or keys than there are is cut to size."""
    if isinstance(mask, np.ndarray) and mask.ndim >= 2 and _ranked(q, k):
        mask = mask[..., : max(1, q.shape[2]), : k.shape[2]]
    return checked(q, k, v, mask, is_causal)


@mutant(
    "short-mask-padded",
    requirement="MASK-9",
    bug_class="VALID",
    seen_in=(
        "https://github.com/flashinfer-ai/flashinfer/issues/3176",
        "https://github.com/huggingface/transformers/issues/13175",
    ),
    twin=checked,
    features=VALIDATES,
)
def short_mask_padded(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask for fewer keys than there are is filled up with ones that allow."""
    if isinstance(mask, np.ndarray) and mask.ndim >= 2 and _ranked(k):
        missing = np.ones((*mask.shape[:-1], max(0, k.shape[2] - mask.shape[-1])), mask.dtype)
        mask = np.concatenate([mask, missing if is_bool(mask) else 0 * missing], -1)
    return checked(q, k, v, mask, is_causal)


@mutant(
    "integer-mask-accepted",
    requirement="MASK-9",
    bug_class="MDTYPE",
    seen_in=(
        "https://github.com/NVIDIA-NeMo/Speech/pull/40",
        "https://github.com/pytorch/pytorch/issues/92554",
    ),
    twin=checked,
    features=VALIDATES,
)
def integer_mask_accepted(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """An integer mask is taken for a floating one: its 0 and 1 are added to the scores."""
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "iu":
        mask = mask.astype(np.float32)
    return checked(q, k, v, mask, is_causal)


@mutant(
    "mask-planes-taken-modulo",
    requirement="MASK-9",
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/pull/184180",),
    twin=checked,
    features=VALIDATES,
)
def mask_planes_taken_modulo(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask for the wrong number of batch elements or heads is indexed modulo the number it has."""
    if isinstance(mask, np.ndarray) and mask.ndim == 4 and mask.shape[0] * mask.shape[1] and _ranked(q):
        element, head = (np.arange(n) for n in q.shape[:2])
        mask = mask[element % mask.shape[0]][:, head % mask.shape[1]]
    return checked(q, k, v, mask, is_causal)


@mutant(
    "three-dim-mask-read-per-head",
    requirement="MASK-10",
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/issues/97605",),
    twin=checked,
    features=VALIDATES,
)
def three_dim_mask_read_per_head(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (n, T, S) is read as (1, H, T, S): right-shaped for a batch mask where B == H."""
    if isinstance(mask, np.ndarray) and mask.ndim == 3:
        mask = mask[None]
    return checked(q, k, v, mask, is_causal)


@mutant(
    "three-dim-mask-read-per-element",
    requirement="MASK-10",
    bug_class="MSHAPE",
    seen_in=("https://github.com/keras-team/keras/pull/20488",),
    twin=checked,
    features=VALIDATES,
)
def three_dim_mask_read_per_element(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (n, T, S) is read as (B, 1, T, S)."""
    if isinstance(mask, np.ndarray) and mask.ndim == 3:
        mask = mask[:, None]
    return checked(q, k, v, mask, is_causal)


@mutant(
    "one-dim-mask-read-as-keys",
    requirement="MASK-10",
    bug_class="MSHAPE",
    seen_in=("https://github.com/autosome-ru/vigg_ribonanza/issues/1",),
    twin=checked,
    features=VALIDATES,
)
def one_dim_mask_read_as_keys(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (S,) is accepted and laid along the keys."""
    if isinstance(mask, np.ndarray) and mask.ndim == 1:
        mask = mask[None, None, None]
    return checked(q, k, v, mask, is_causal)


# --- mask and causal rule


@mutant(
    "causal-drops-the-mask",
    requirement="CAUSAL-5",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/pytorch/pytorch/pull/187413",
        "https://github.com/AI-Hypercomputer/maxtext/issues/878",
    ),
    twin=checked,
    features=VALIDATES,
)
def causal_drops_the_mask(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask beside is_causal is silently ignored."""
    return checked(q, k, v, None if is_causal else mask, is_causal)


@mutant(
    "mask-drops-the-causal-rule",
    requirement="CAUSAL-5",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/keras-team/keras/issues/23038",
        "https://github.com/huggingface/transformers/issues/48748",
    ),
    twin=checked,
    features=VALIDATES,
)
def mask_drops_the_causal_rule(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """is_causal beside a mask is silently ignored: the mask is thought to hold it already."""
    return checked(q, k, v, mask, is_causal and mask is None)


@mutant(
    "all-true-mask-passes-beside-causal",
    requirement="CAUSAL-5",
    bug_class="VALID",
    seen_in=("https://github.com/pytorch/pytorch/issues/100709",),
    twin=checked,
    features=VALIDATES,
)
def all_true_mask_passes_beside_causal(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask that allows everything is dropped first, and so is_causal with it is not rejected."""
    if isinstance(mask, np.ndarray) and is_bool(mask) and mask.all():
        mask = None if is_causal else mask
    return checked(q, k, v, mask, is_causal)


# --- shapes of q, k and v


@mutant(
    "unequal-key-and-value-lengths-cut",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/pytorch/pytorch/pull/193728",),
    twin=checked,
    features=VALIDATES,
)
def unequal_key_and_value_lengths_cut(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """If k and v differ in length, the longer is cut."""
    if _ranked(k, v):
        S = min(k.shape[2], v.shape[2])
        k, v = k[:, :, :S], v[:, :, :S]
    return checked(q, k, v, mask, is_causal)


@mutant(
    "missing-batch-axis-added",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/google/flax/issues/5496",),
    twin=checked,
    features=VALIDATES,
)
def missing_batch_axis_added(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Arrays of rank 3 are accepted as a batch of one."""
    q, k, v = (x[None] if isinstance(x, np.ndarray) and x.ndim == 3 else x for x in (q, k, v))
    return checked(q, k, v, mask, is_causal)


@mutant(
    "unequal-batches-cut",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/pytorch/pytorch/issues/64888",),
    twin=checked,
    features=VALIDATES,
)
def unequal_batches_cut(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """If q, k and v differ in batch size, the larger are cut."""
    if _ranked(q, k, v):
        B = min(x.shape[0] for x in (q, k, v))
        q, k, v = q[:B], k[:B], v[:B]
        if isinstance(mask, np.ndarray) and mask.ndim == 4:
            mask = mask[: max(1, B)]
    return checked(q, k, v, mask, is_causal)


@mutant(
    "unequal-head-sizes-cut",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/google/flax/pull/5505",),
    twin=checked,
    features=VALIDATES,
)
def unequal_head_sizes_cut(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """If q and k differ in head size, the larger is cut."""
    if _ranked(q, k):
        D = min(q.shape[3], k.shape[3])
        q, k = q[..., :D], k[..., :D]
    return checked(q, k, v, mask, is_causal)


# --- what is raised, and when


@mutant(
    "assertion-error-for-wrong-shapes",
    requirement="ERR-2",
    bug_class="VALID",
    seen_in=(
        "https://github.com/google/flax/issues/5496",
        "https://github.com/keras-team/keras/pull/22420",
    ),
    twin=checked,
    features=VALIDATES,
)
def assertion_error_for_wrong_shapes(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Wrong arguments raise AssertionError, as `assert` would."""
    try:
        return checked(q, k, v, mask, is_causal)
    except ValueError as error:
        raise AssertionError(*error.args) from None


@mutant(
    "runtime-error-for-wrong-shapes",
    requirement="ERR-2",
    bug_class="VALID",
    seen_in=("https://github.com/facebookresearch/xformers/issues/683",),
    twin=checked,
    features=VALIDATES,
)
def runtime_error_for_wrong_shapes(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Wrong arguments raise RuntimeError, from whatever broke first."""
    try:
        return checked(q, k, v, mask, is_causal)
    except (TypeError, ValueError) as error:
        raise RuntimeError(*error.args) from None


@mutant(
    "error-that-names-nothing",
    requirement="ERR-2",
    bug_class="VALID",
    seen_in=("https://github.com/facebookresearch/xformers/issues/683",),
    twin=checked,
    features=VALIDATES,
)
def error_that_names_nothing(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Wrong arguments raise ValueError, and no word says which or why."""
    try:
        return checked(q, k, v, mask, is_causal)
    except ValueError:
        raise ValueError("invalid input") from None


@mutant(
    "query-scaled-before-the-check",
    requirement="ERR-3",
    bug_class="ALIAS",
    seen_in=(
        "https://github.com/flashinfer-ai/flashinfer/pull/2084",
        "https://github.com/espnet/espnet/blob/9fdf0c433f0498420f5705ebb83c40b7732f122a/espnet2/speechlm/module/transformer.py",
    ),
    twin=checked,
    features=VALIDATES,
)
def query_scaled_before_the_check(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A rejected call has already halved q where it lies; a good one leaves it whole."""
    try:
        return checked(q, k, v, mask, is_causal)
    except ValueError:
        if isinstance(q, np.ndarray) and is_float(q) and q.flags.writeable:
            q[...] = (widen(q) / 2).astype(q.dtype)
        raise


@mutant(
    "mask-filled-before-the-check",
    requirement="ERR-3",
    bug_class="ALIAS",
    seen_in=("https://github.com/pytorch/pytorch/issues/109072",),
    twin=checked,
    features=VALIDATES,
)
def mask_filled_before_the_check(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A rejected call has already filled the caller's mask with zeros; a good one leaves it whole."""
    try:
        return checked(q, k, v, mask, is_causal)
    except ValueError:
        if isinstance(mask, np.ndarray) and mask.flags.writeable:
            mask[...] = 0
        raise
