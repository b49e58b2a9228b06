"""Lies about masks: polarity, broadcasting, dtype, order, fill values and rows without a visible key."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant, tiled
from attn_conformance.mutants.plain import (
    NEVER,
    Array,
    attention,
    hide_future,
    is_bool,
    is_float,
    masked,
    product,
    row_peak,
    scores,
    softmax,
    visible,
    widen,
)

# --- polarity and masks that are ignored


@mutant(
    "inverted-mask",
    requirement="MASK-1",
    bug_class="POLARITY",
    seen_in=(
        "https://github.com/lucidrains/halonet-pytorch/issues/4",
        "https://github.com/nyu-mll/jiant/pull/465",
    ),
    twin=attention,
)
def inverted_mask(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """A boolean mask is read as True = forbidden."""
    return attention(q, k, v, ~mask if mask is not None and is_bool(mask) else mask, is_causal)


@mutant(
    "inverted-mask-below-4-dims",
    requirement="MASK-4",
    bug_class="POLARITY",
    seen_in=("https://github.com/neuro-galaxy/torch_brain/pull/74",),
    twin=attention,
)
def inverted_mask_below_4_dims(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask is read as True = forbidden where it arrives as (T, S), the branch that broadcasts."""
    if mask is not None and is_bool(mask) and mask.ndim < 4:
        mask = ~mask
    return attention(q, k, v, mask, is_causal)


@mutant(
    "mask-fill-result-dropped",
    requirement="MASK-1",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/espnet/espnet/pull/1273",
        "https://github.com/lucidrains/flamingo-pytorch/issues/10",
    ),
    twin=attention,
)
def mask_fill_result_dropped(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The filled scores of a boolean mask are computed and thrown away."""
    logits = scores(q, k)
    if is_float(mask):
        logits = masked(logits, mask)
    else:
        masked(logits, mask)
    return product(softmax(hide_future(logits, is_causal)), v, q.dtype)


@mutant(
    "no-mask-at-single-query",
    requirement="MASK-8",
    bug_class="IGNORED",
    seen_in=("https://github.com/OpenNMT/OpenNMT-py/pull/2532",),
    twin=attention,
)
def no_mask_at_single_query(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is skipped at T = 1, because decoding needs none."""
    return attention(q, k, v, None if q.shape[2] == 1 else mask, is_causal)


@mutant(
    "no-mask-when-first-element-allows-all",
    requirement="MASK-8",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/ml-explore/mlx-lm/issues/1906",
        "https://github.com/huggingface/transformers/pull/46773",
    ),
    twin=attention,
)
def no_mask_when_first_element_allows_all(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is skipped when batch element 0 has no padding, as if the others had none either."""
    if mask is not None and is_bool(mask) and mask.ndim == 4 and mask[:1].all():
        mask = None
    return attention(q, k, v, mask, is_causal)


@mutant(
    "mask-only-when-square",
    requirement="MASK-8",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/keras-team/keras/issues/23038",
        "https://github.com/speechbrain/speechbrain/issues/1107",
    ),
    twin=attention,
)
def mask_only_when_square(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is applied only where T == S: cross-attention goes without."""
    return attention(q, k, v, mask if q.shape[2] == k.shape[2] else None, is_causal)


@mutant(
    "all-true-mask-read-as-causal",
    requirement="MASK-7",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/huggingface/transformers/issues/48172",
        "https://github.com/lucidrains/soundstorm-pytorch/issues/37",
    ),
    twin=attention,
)
def all_true_mask_read_as_causal(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """An all-True mask is dropped as needless, and without a mask the causal flag defaults to True."""
    if mask is not None and is_bool(mask) and mask.all():
        mask, is_causal = None, True
    return attention(q, k, v, mask, is_causal)


# --- order of mask, softmax and scale


@mutant(
    "mask-after-softmax",
    requirement="MASK-1",
    bug_class="ORDER",
    seen_in=(
        "https://github.com/huggingface/pytorch-image-models/pull/2236",
        "https://github.com/vllm-project/vllm-omni/pull/5704",
    ),
    twin=attention,
)
def mask_after_softmax(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask zeroes weights after the softmax, which are not normalised again."""
    logits = hide_future(scores(q, k) if is_bool(mask) else masked(scores(q, k), mask), is_causal)
    weights = softmax(logits)
    if mask is not None and is_bool(mask):
        weights = np.where(mask, weights, 0)
    return product(weights, v, q.dtype)


@mutant(
    "mask-multiplied",
    requirement="MASK-1",
    bug_class="FILL",
    seen_in=(
        "https://github.com/georg-wolflein/good-features/pull/1",
        "https://github.com/onnx/onnx/issues/8054",
    ),
    twin=attention,
)
def mask_multiplied(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask multiplies the scores, so that a forbidden key keeps the logit 0."""
    logits = scores(q, k)
    if mask is None or not is_bool(mask):
        return product(softmax(hide_future(masked(logits, mask), is_causal)), v, q.dtype)
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True)
    weights = softmax(hide_future(np.where(mask, logits, 0), is_causal))
    return product(np.where(seen, weights, 0), v, q.dtype)


@mutant(
    "mask-added-before-scale",
    requirement="MASK-2",
    bug_class="ORDER",
    seen_in=(
        "https://github.com/microsoft/onnxruntime/pull/28370",
        "https://github.com/onnx/onnx/issues/7865",
    ),
    twin=attention,
)
def mask_added_before_scale(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A floating mask is added before the scale is applied, so that it is divided by sqrt(D) too."""
    logits = q.shape[-1] ** -0.5 * masked(scores(q, k, 1.0), mask)
    return product(softmax(hide_future(logits, is_causal)), v, q.dtype)


@mutant(
    "peak-before-float-mask",
    requirement="MASK-7",
    bug_class="ORDER",
    seen_in=("https://github.com/HabanaAI/vllm-fork/issues/275",),
    twin=attention,
)
def peak_before_float_mask(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The row's maximum is taken before a floating mask is added: a constant beyond +-88 overflows exp."""
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    if mask is None or not is_float(mask):
        return product(softmax(logits), v, q.dtype)
    bare = np.where(np.isneginf(logits), NEVER, scores(q, k))
    return product(softmax(logits, row_peak(bare)), v, q.dtype)


@mutant(
    "float-mask-left-out-of-denominator",
    requirement="MASK-7",
    bug_class="ORDER",
    seen_in=("https://github.com/abisee/pointer-generator/issues/88",),
    twin=attention,
)
def float_mask_left_out_of_denominator(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Finite values of a floating mask scale the normalised weights, which then do not sum to 1."""
    if mask is None or not is_float(mask):
        return attention(q, k, v, mask, is_causal)
    bias = widen(mask) if q.dtype != np.float64 else mask.astype(np.float64)
    hidden = np.isneginf(bias)
    weights = softmax(hide_future(np.where(hidden, NEVER, scores(q, k)), is_causal))
    return product(weights * np.exp(np.where(hidden, 0, bias)), v, q.dtype)


# --- values of floating masks


@mutant(
    "float-mask-as-boolean",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=("https://github.com/pytorch/pytorch/issues/107084",),
    twin=attention,
)
def float_mask_as_boolean(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A floating mask is cast to boolean: whatever is not 0 may be attended to."""
    return attention(q, k, v, mask.astype(np.bool_) if mask is not None else None, is_causal)


@mutant(
    "finite-mask-values-ignored",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=("https://github.com/openai/whisper/commit/27f971320a50e65fd510b88be04219a6ade31f9b",),
    twin=attention,
)
def finite_mask_values_ignored(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Of a floating mask only the minus infinities count: it says who may attend, and nothing more."""
    if mask is not None and is_float(mask):
        mask = ~np.isneginf(mask.astype(np.float64))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "float-mask-rounded-to-half",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=(
        "https://github.com/jax-ml/jax/issues/32242",
        "https://github.com/unit8co/darts/pull/3087",
    ),
    twin=attention,
    dtypes=("float64", "float32", "bfloat16"),
)
def float_mask_rounded_to_half(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A floating mask passes through float16 on its way: 1000.25 is added as 1000, -70000 forbids."""
    return attention(
        q, k, v, mask.astype(np.float16) if mask is not None and is_float(mask) else mask, is_causal
    )


@mutant(
    "float-mask-rounded-to-query-dtype",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=("https://github.com/mlfoundations/open_clip/issues/484",),
    twin=attention,
)
def float_mask_rounded_to_query_dtype(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A float32 mask beside float16 or bfloat16 inputs is rounded to their dtype before it is added."""
    return attention(
        q, k, v, mask.astype(q.dtype) if mask is not None and is_float(mask) else mask, is_causal
    )


# --- shapes of masks


@mutant(
    "first-head-mask-for-all",
    requirement="MASK-3",
    bug_class="MSHAPE",
    seen_in=("https://github.com/microsoft/onnxruntime/issues/26766",),
    twin=attention,
)
def first_head_mask_for_all(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask's plane for head 0 is used for every head."""
    return attention(q, k, v, mask[:, :1] if mask is not None and mask.ndim == 4 else mask, is_causal)


@mutant(
    "first-element-mask-for-all",
    requirement="MASK-3",
    bug_class="MSHAPE",
    seen_in=("https://github.com/bghira/SimpleTuner/pull/1502",),
    twin=attention,
)
def first_element_mask_for_all(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask's plane for batch element 0 is used for the whole batch."""
    return attention(q, k, v, mask[:1] if mask is not None and mask.ndim == 4 else mask, is_causal)


def _planes(q: Array, mask: Array, plane: Array) -> Array:
    """The mask (B, 1, T, S) as (B, H, T, S) in which flat plane b*H + h is batch plane `plane[b*H + h]`."""
    return np.asarray(mask[plane, 0].reshape(*q.shape[:2], *mask.shape[2:]))


def per_element_planes(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Right: a mask (B, 1, T, S) is expanded to B*H planes, one batch element after the other."""
    if mask is not None and mask.ndim == 4 and mask.shape[1] == 1 < mask.shape[0]:
        mask = _planes(q, mask, np.repeat(np.arange(q.shape[0]), q.shape[1]))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "batch-mask-tiled-over-heads",
    requirement="MASK-4",
    bug_class="MSHAPE",
    seen_in=(
        "https://github.com/lsdefine/attention-is-all-you-need-keras/issues/36",
        "https://github.com/pytorch/pytorch/pull/184180",
    ),
    twin=per_element_planes,
)
def batch_mask_tiled_over_heads(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (B, 1, T, S) is expanded to B*H planes by tiling the batch, so that elements swap masks."""
    if mask is not None and mask.ndim == 4 and mask.shape[1] == 1 < mask.shape[0]:
        mask = _planes(q, mask, np.tile(np.arange(q.shape[0]), q.shape[1]))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "key-mask-along-queries-when-square",
    requirement="MASK-4",
    bug_class="MSHAPE",
    seen_in=(
        "https://github.com/hyunwoongko/transformer/pull/40",
        "https://github.com/lsdefine/attention-is-all-you-need-keras/issues/16",
    ),
    twin=attention,
)
def key_mask_along_queries_when_square(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A key mask (B, 1, 1, S) is laid along the queries where T == S."""
    if mask is not None and mask.ndim == 4 and mask.shape[2] == 1 and mask.shape[3] == q.shape[2]:
        mask = mask.swapaxes(2, 3)
    return attention(q, k, v, mask, is_causal)


@mutant(
    "batch-mask-read-per-head",
    requirement="MASK-4",
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/pull/184180",),
    twin=attention,
)
def batch_mask_read_per_head(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (B, 1, T, S) is read as (1, H, T, S) where B == H."""
    if mask is not None and mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[0] == q.shape[1]:
        mask = mask.swapaxes(0, 1)
    return attention(q, k, v, mask, is_causal)


@mutant(
    "head-mask-read-per-element",
    requirement="MASK-4",
    bug_class="MSHAPE",
    seen_in=("https://github.com/keras-team/keras/pull/20488",),
    twin=attention,
)
def head_mask_read_per_element(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (1, H, T, S) is read as (B, 1, T, S) where B == H."""
    if mask is not None and mask.ndim == 4 and mask.shape[0] == 1 and mask.shape[1] == q.shape[0]:
        mask = mask.swapaxes(0, 1)
    return attention(q, k, v, mask, is_causal)


@mutant(
    "first-row-of-mask-for-a-block-of-four",
    requirement="MASK-3",
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/issues/195910",),
    twin=attention,
)
def first_row_of_mask_for_a_block_of_four(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is read once for each group of four query rows."""
    if mask is not None and mask.ndim >= 2:
        mask = mask[..., np.arange(mask.shape[-2]) // 4 * 4, :]
    return attention(q, k, v, mask, is_causal)


# --- rows without a visible key


@mutant(
    "mean-of-values-for-empty-rows",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=(
        "https://github.com/microsoft/onnxruntime/pull/28958",
        "https://github.com/NVIDIA/apex/issues/1390",
    ),
    twin=attention,
)
def mean_of_values_for_empty_rows(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A row without a visible key attends to all keys alike, as a finite fill makes it."""
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True)
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    return product(softmax(np.where(seen, logits, 0)), v, q.dtype)


@mutant(
    "nan-for-empty-rows",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/103963",
        "https://github.com/allenai/OLMo/issues/322",
    ),
    twin=attention,
)
def nan_for_empty_rows(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A row without a visible key is 0/0."""
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True) | (k.shape[2] == 0)
    out = attention(q, k, v, mask, is_causal)
    return np.where(seen, out, np.array(np.nan, out.dtype))


@mutant(
    "empty-rows-keep-the-query",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/pull/1533",),
    twin=attention,
)
def empty_rows_keep_the_query(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The output starts as a copy of q's memory, and rows without a visible key are never written."""
    out = attention(q, k, v, mask, is_causal)
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True) | (k.shape[2] == 0)
    return np.where(seen, out, q) if out.shape == q.shape else out


@mutant(
    "empty-row-empties-its-tile",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=("https://github.com/facebookresearch/xformers/issues/722",),
    twin=attention,
)
def empty_row_empties_its_tile(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """If the first row of four sees no key, the other three are skipped with it."""
    seen = np.asarray(visible(q, k, mask, is_causal).any(-1, keepdims=True))
    seen = seen[:, :, np.arange(q.shape[2]) // 4 * 4]
    out = attention(q, k, v, mask, is_causal)
    return np.where(seen, out, np.zeros((), out.dtype))


@mutant(
    "nan-when-first-tile-is-hidden",
    requirement="MASK-1",
    bug_class="FULLMASK",
    seen_in=("https://github.com/pytorch/pytorch/issues/127055",),
    twin=tiled.attention,
)
def nan_when_first_tile_is_hidden(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A tile of 32 keys that is wholly hidden before any visible one gives exp(-inf - -inf)."""
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    out = tiled.accumulate(logits, v, tile=32, guarded=False)
    seen = ~np.isneginf(logits).all(-1, keepdims=True)
    return np.where(seen, out, 0).astype(q.dtype)


# --- finite stand-ins for minus infinity


@mutant(
    "forbidden-filled-with-minus-1e4",
    requirement="NUM-3",
    bug_class="FILL",
    seen_in=(
        "https://github.com/ohdearquant/lattice/issues/361",
        "https://github.com/hyunwoongko/transformer/pull/40",
    ),
    twin=attention,
)
def forbidden_filled_with_minus_1e4(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A forbidden logit is set to -10000, which wins where the visible ones lie below that."""
    seen = visible(q, k, mask, is_causal)
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    weights = softmax(np.where(seen, logits, -1e4))
    return product(np.where(seen.any(-1, keepdims=True), weights, 0), v, q.dtype)


@mutant(
    "mask-added-as-minus-100",
    requirement="MASK-6",
    bug_class="FILL",
    seen_in=("https://github.com/huggingface/transformers/pull/18185",),
    twin=attention,
)
def mask_added_as_minus_100(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask is turned into an addend of -100, which a large enough logit overcomes."""
    if mask is None or not is_bool(mask):
        return attention(q, k, v, mask, is_causal)
    logits = hide_future(scores(q, k) + np.where(mask, 0, np.float32(-100)), is_causal)
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True)
    return product(np.where(seen, softmax(logits), 0), v, q.dtype)


@mutant(
    "mask-added-as-minus-1e9",
    requirement="MASK-6",
    bug_class="FILL",
    seen_in=(
        "https://github.com/microsoft/onnxruntime/issues/14363",
        "https://github.com/unit8co/darts/pull/3087",
    ),
    twin=attention,
)
def mask_added_as_minus_1e9(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask is turned into an addend of -1e9, which a logit beyond that overcomes."""
    if mask is None or not is_bool(mask):
        return attention(q, k, v, mask, is_causal)
    logits = hide_future(scores(q, k) + np.where(mask, 0, np.float32(-1e9)), is_causal)
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True)
    return product(np.where(seen, softmax(logits), 0), v, q.dtype)


@mutant(
    "peak-over-forbidden-keys",
    requirement="MASK-6",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/pytorch/pytorch/pull/130014",),
    twin=attention,
)
def peak_over_forbidden_keys(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The row's maximum counts forbidden keys: one more than 104 above the visible ones drives them to 0."""
    bias = mask if is_float(mask) else None
    everything = scores(q, k)
    if bias is not None:
        everything = everything + np.where(np.isneginf(widen(bias)), 0, widen(bias))
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    return product(softmax(logits, row_peak(everything)), v, q.dtype)
