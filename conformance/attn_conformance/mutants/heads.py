"""Lies about heads: scale, splitting and merging, grouped heads, other value sizes, the log-sum-exp."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant, quiet
from attn_conformance.mutants.plain import (
    Array,
    attention,
    hide_future,
    masked,
    product,
    row_peak,
    scores,
    softmax,
)

# --- the scale


@mutant(
    "scale-from-model-width",
    requirement="EQ-5",
    bug_class="SCALE",
    seen_in=(
        "https://github.com/FareedKhan-dev/train-llm-from-scratch/pull/3",
        "https://github.com/omihub777/ViT-CIFAR/pull/12",
        "https://github.com/aladdinpersson/Machine-Learning-Collection/issues/65",
    ),
    twin=attention,
)
def scale_from_model_width(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The scale is 1/sqrt(H*D), that of the model and not of the head."""
    return attention(q, k, v, mask, is_causal, scale=(q.shape[1] * q.shape[3]) ** -0.5)


@mutant(
    "scale-of-padded-head-size",
    requirement="EQ-5",
    bug_class="SCALE",
    seen_in=("https://github.com/intel/ipex-llm/pull/12619",),
    twin=attention,
)
def scale_of_padded_head_size(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Heads are padded to a multiple of 8 features, and the scale is taken from the padded size."""
    return attention(q, k, v, mask, is_causal, scale=(-(-q.shape[3] // 8) * 8) ** -0.5)


@mutant(
    "scale-one-over-head-size",
    requirement="EQ-3",
    bug_class="SCALE",
    seen_in=(
        "https://github.com/AI-Hypercomputer/maxtext/issues/1370",
        "https://github.com/PAIR-code/tiny-transformers/issues/71",
    ),
    twin=attention,
)
def scale_one_over_head_size(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The scale is 1/D without the root."""
    return attention(q, k, v, mask, is_causal, scale=1 / q.shape[3])


@mutant(
    "no-scale",
    requirement="EQ-3",
    bug_class="SCALE",
    seen_in=(
        "https://github.com/flexflow/flexflow-train/issues/467",
        "https://github.com/pytorch/torchtitan/pull/2173",
    ),
    twin=attention,
)
def no_scale(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """The scores are not scaled."""
    return attention(q, k, v, mask, is_causal, scale=1.0)


@mutant(
    "scale-off-by-one-percent",
    requirement="NUM-1",
    bug_class="SCALE",
    seen_in=("https://github.com/NVIDIA/Megatron-LM/pull/848",),
    twin=attention,
)
def scale_off_by_one_percent(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The scale is 1 % too large."""
    return attention(q, k, v, mask, is_causal, scale=1.01 * q.shape[3] ** -0.5)


@mutant(
    "scale-off-by-a-thousandth",
    requirement="NUM-1",
    bug_class="SCALE",
    seen_in=("https://github.com/lucidrains/denoising-diffusion-pytorch/pull/314",),
    twin=attention,
)
def scale_off_by_a_thousandth(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The scale is 0.1 % too large, as if it had been rounded on its way; bfloat16 hardly shows it."""
    return attention(q, k, v, mask, is_causal, scale=1.001 * q.shape[3] ** -0.5)


@mutant(
    "explicit-scale-ignored",
    requirement="KERN-2",
    bug_class="SCALE",
    seen_in=("https://github.com/pytorch/pytorch/issues/174049",),
    twin=attention,
    features=("scale",),
)
def explicit_scale_ignored(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """An explicit scale is accepted and has no effect."""
    return attention(q, k, v, mask, is_causal)


@mutant(
    "explicit-scale-on-top-of-the-default",
    requirement="KERN-2",
    bug_class="SCALE",
    seen_in=("https://github.com/huggingface/transformers/pull/38290",),
    twin=attention,
    features=("scale",),
)
def explicit_scale_on_top_of_the_default(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """An explicit scale multiplies 1/sqrt(D) instead of replacing it; D = 1 does not show it."""
    factor = q.shape[3] ** -0.5
    return attention(q, k, v, mask, is_causal, scale=factor if scale is None else scale * factor)


# --- splitting and merging


@mutant(
    "heads-merged-without-transpose",
    requirement="EQ-5",
    bug_class="HEADS",
    seen_in=(
        "https://github.com/jsbaan/transformer-from-scratch/pull/6",
        "https://github.com/ajhalthor/Transformer-Neural-Network/pull/4",
    ),
    twin=attention,
)
def heads_merged_without_transpose(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result is stored as (B, T, H, D) and read as (B, H, T, D): heads and positions are mixed."""
    out = attention(q, k, v, mask, is_causal)
    return np.ascontiguousarray(out.swapaxes(1, 2)).reshape(out.shape)


@mutant(
    "value-heads-split-the-other-way",
    requirement="EQ-5",
    bug_class="HEADS",
    seen_in=(
        "https://github.com/ByteDance-Seed/VeOmni/pull/162",
        "https://github.com/facebookresearch/xformers/issues/761",
    ),
    twin=attention,
)
def value_heads_split_the_other_way(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The merged features of V are split as (D, H) where those of Q and K are split as (H, D)."""
    B, H, S, D = v.shape
    merged = v.swapaxes(1, 2).reshape(B, S, H * D)
    return attention(q, k, merged.reshape(B, S, D, H).transpose(0, 3, 1, 2), mask, is_causal)


@mutant(
    "head-size-cut-to-a-multiple-of-eight",
    requirement="EQ-5",
    bug_class="HEADS",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/1347",),
    twin=attention,
)
def head_size_cut_to_a_multiple_of_eight(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Features of q and k beyond the last multiple of 8 are left out of the scores (D > 8)."""
    D = q.shape[3]
    kept = max(D // 8 * 8, min(D, 8))
    return attention(q[..., :kept], k[..., :kept], v, mask, is_causal, scale=D**-0.5)


@mutant(
    "last-odd-head-reads-its-neighbour",
    requirement="EQ-5",
    least={"H": 3},
    bug_class="HEADS",
    seen_in=("https://github.com/PSAL-POSTECH/ONNXim/pull/34",),
    twin=attention,
)
def last_odd_head_reads_its_neighbour(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Heads are served in pairs, and the last of an odd number reads the keys of the one before (H >= 3)."""
    H = q.shape[1]
    source = np.arange(H)
    if H >= 3 and H % 2:
        source[-1] = H - 2
    return attention(q, k[:, source], v, mask, is_causal)


@mutant(
    "last-feature-of-an-odd-width-never-written",
    requirement="EQ-5",
    bug_class="HEADS",
    seen_in=(
        "https://github.com/iree-org/iree-turbine/pull/1062",
        "https://github.com/microsoft/onnxruntime/pull/12933",
    ),
    twin=attention,
)
def last_feature_of_an_odd_width_never_written(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result is written two features at a time: of an odd H * D the last one, in the last head, stays zero."""
    out = attention(q, k, v, mask, is_causal)
    if out.shape[1] * out.shape[3] % 2:
        out[:, -1, :, -1] = 0
    return out


# --- grouped heads


@mutant(
    "grouped-heads-tiled",
    requirement="KERN-1",
    least={"H": 4},
    bug_class="HEADS",
    seen_in=(
        "https://github.com/onnx/onnx/pull/7274",
        "https://github.com/apple/axlearn/pull/842",
    ),
    twin=attention,
    features=("gqa",),
)
def grouped_heads_tiled(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Query head h reads key head h modulo Hkv, not h // g: groups are interleaved (1 < Hkv < H)."""
    source = np.arange(q.shape[1]) % k.shape[1]
    return attention(q, k[:, source], v[:, source], mask, is_causal)


@mutant(
    "grouped-heads-clamped",
    requirement="KERN-1",
    least={"H": 4},
    bug_class="HEADS",
    seen_in=("https://github.com/PSAL-POSTECH/ONNXim/pull/34",),
    twin=attention,
    features=("gqa",),
)
def grouped_heads_clamped(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Query head h reads key head h while there is one, and the last key head after that (1 < Hkv < H)."""
    source = np.minimum(np.arange(q.shape[1]), k.shape[1] - 1)
    return attention(q, k[:, source], v[:, source], mask, is_causal)


@mutant(
    "one-key-head-folded-wrongly",
    requirement="KERN-1",
    bug_class="HEADS",
    seen_in=("https://github.com/vllm-project/flash-attention/pull/87",),
    twin=attention,
    features=("gqa",),
)
def one_key_head_folded_wrongly(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """With one key head for all, heads are folded into the queries as (T, H) and unfolded as (H, T)."""
    out = attention(q, k, v, mask, is_causal)
    if k.shape[1] > 1 or q.shape[1] == 1:
        return out
    return np.ascontiguousarray(out.swapaxes(1, 2)).reshape(out.shape)


# --- values of another head size


@mutant(
    "values-cut-to-the-query-head-size",
    requirement="KERN-3",
    bug_class="HEADS",
    seen_in=("https://github.com/pytorch/pytorch/issues/176767",),
    twin=attention,
    features=("dv",),
)
def values_cut_to_the_query_head_size(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result has q's head size: features of V beyond D are dropped (Dv > D)."""
    return attention(q, k, v[..., : q.shape[3]], mask, is_causal)


@mutant(
    "values-padded-to-the-query-head-size",
    requirement="KERN-3",
    bug_class="HEADS",
    seen_in=("https://github.com/pytorch/pytorch/issues/176767",),
    twin=attention,
    features=("dv",),
)
def values_padded_to_the_query_head_size(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result has q's head size: it is filled up with zeros where V has fewer features (Dv < D)."""
    out = attention(q, k, v, mask, is_causal)
    return np.pad(out, [(0, 0)] * 3 + [(0, max(0, q.shape[3] - v.shape[3]))])


@mutant(
    "scale-from-the-value-head-size",
    requirement="KERN-3",
    bug_class="SCALE",
    seen_in=("https://github.com/AI-Hypercomputer/maxtext/issues/1370",),
    twin=attention,
    features=("dv",),
)
def scale_from_the_value_head_size(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The scale is 1/sqrt(Dv)."""
    return attention(q, k, v, mask, is_causal, scale=v.shape[3] ** -0.5)


# --- the log-sum-exp


@quiet
def attention_and_lse(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> tuple[Array, Array]:
    """Right: the result and the natural log-sum-exp of each row, (B, H, T), -inf for empty rows."""
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    peak = row_peak(logits)
    lse = peak + np.log(np.exp(logits - peak).sum(-1, keepdims=True))
    return product(softmax(logits), v, q.dtype), lse[..., 0]


@mutant(
    "lse-in-base-two",
    requirement="KERN-4",
    bug_class="SOFTMAX",
    seen_in=(
        "https://github.com/sgl-project/sglang/issues/40903",
        "https://github.com/vllm-project/vllm/pull/28840",
    ),
    twin=attention_and_lse,
    features=("lse",),
)
def lse_in_base_two(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> tuple[Array, Array]:
    """The log-sum-exp comes in base 2 where the natural one is promised."""
    out, lse = attention_and_lse(q, k, v, mask, is_causal)
    return out, lse * lse.dtype.type(np.log2(np.e))


@mutant(
    "lse-without-the-peak",
    requirement="KERN-4",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/vllm-project/flash-attention/pull/34",),
    twin=attention_and_lse,
    features=("lse",),
)
def lse_without_the_peak(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> tuple[Array, Array]:
    """The row's maximum, subtracted before exp, is not added back to the logarithm of the sum."""
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    total = np.exp(logits - row_peak(logits)).sum(-1)
    return product(softmax(logits), v, q.dtype), np.log(total)


@mutant(
    "lse-zero-for-empty-rows",
    requirement="KERN-4",
    bug_class="FULLMASK",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/issues/4452",),
    twin=attention_and_lse,
    features=("lse",),
)
def lse_zero_for_empty_rows(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> tuple[Array, Array]:
    """A row without a visible key has the log-sum-exp 0, not -inf."""
    out, lse = attention_and_lse(q, k, v, mask, is_causal)
    return out, np.where(np.isneginf(lse), np.zeros((), lse.dtype), lse)
