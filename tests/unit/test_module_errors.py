"""Wrong constructions and calls of a module raise the documented exceptions, with one wording for every library."""

import ml_dtypes
import numpy as np
import pytest

from attn_reference.errors import check_forward_call, check_module_sizes, check_qkv_call


def array(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def forward(causal=False, cached=None, **changes):
    """A right call, B = 2, T = 5, n_state = 8, n_head = 4, with some arguments replaced."""
    check_forward_call(**({"x": array(2, 5, 8)} | changes), n_state=8, n_head=4, causal=causal, cached=cached)


def qkv(causal=False, **changes):
    """A right call, B = 2, T = 5, S = 7, n_state = 8, n_head = 4, with some arguments replaced."""
    right = {"q": array(2, 5, 8), "k": array(2, 7, 8), "v": array(2, 7, 8)}
    check_qkv_call(**(right | changes), n_state=8, n_head=4, causal=causal)


FLOATING = "float64, float32, float16, bfloat16"
OF_MASK = "mask must have one of the dtypes bool, float32 (bool, that of x, or float32), got"
NO_MASK = "mask must be None where causal is True, got shape"
XA_BATCH = "xa must have the batch size of x, B = 2 (a batch of 1 is not broadcast), got shape"
CACHE_BATCH = (
    "kv_cache must hold entries of the batch size of x, B = 2 (a batch of 1 is not broadcast), "
    "got a batch size of"
)
RANKS = "mask must have rank 2, (T, S) = (5, 5), or 4, (B, H, T, S) = (2, 4, 5, 5), got shape"


def rank_2(S):
    return f"mask of rank 2 must have shape (T, S) = (5, {S}), got shape"


def rank_4(S):
    return (
        f"mask of rank 4 must have shape (B, H, T, S) = (2, 4, 5, {S}), where B, H and T may be 1, got shape"
    )


WRONG_FORWARD = [
    # a mask in a causal module, before anything else
    ({"causal": True, "mask": np.ones((5, 5), bool)}, ValueError, f"{NO_MASK} (5, 5)"),
    ({"causal": True, "mask": array(1, 1, 5, 5), "x": [1.0]}, ValueError, f"{NO_MASK} (1, 1, 5, 5)"),
    ({"causal": True, "mask": np.ones(7, int), "x": array(5)}, ValueError, f"{NO_MASK} (7,)"),
    # no arrays
    ({"mask": True}, TypeError, "mask must be an array, got bool"),
    ({"causal": True, "mask": [1]}, TypeError, "mask must be an array, got list"),
    ({"x": [[1.0]]}, TypeError, "x must be an array, got list"),
    ({"x": None}, TypeError, "x must be an array, got NoneType"),
    ({"xa": 1.0}, TypeError, "xa must be an array, got float"),
    # shapes
    ({"x": array(5, 8)}, ValueError, "x must have rank 3, (B, T, n_state), got shape (5, 8)"),
    ({"x": array(2, 4, 5, 2)}, ValueError, "x must have rank 3, (B, T, n_state), got shape (2, 4, 5, 2)"),
    ({"x": array()}, ValueError, "x must have rank 3, (B, T, n_state), got shape ()"),
    ({"x": array(2, 5, 9)}, ValueError, "x must have the last size n_state = 8, got shape (2, 5, 9)"),
    ({"xa": array(7)}, ValueError, "xa must have rank 3, (B, S, n_state), got shape (7,)"),
    ({"xa": array(2, 7, 4)}, ValueError, "xa must have the last size n_state = 8, got shape (2, 7, 4)"),
    ({"xa": array(3, 7, 8)}, ValueError, f"{XA_BATCH} (3, 7, 8)"),
    ({"xa": array(1, 7, 8)}, ValueError, f"{XA_BATCH} (1, 7, 8)"),
    # the cache
    ({"cached": (3, 7)}, ValueError, f"{CACHE_BATCH} 3"),
    ({"cached": (1, 0)}, ValueError, f"{CACHE_BATCH} 1"),
    ({"cached": (4, 7), "xa": array(2, 9, 8)}, ValueError, f"{CACHE_BATCH} 4"),
    ({"cached": (2, 7), "xa": array(1, 7, 8)}, ValueError, f"{XA_BATCH} (1, 7, 8)"),
    (
        {"cached": (2, 7), "xa": array(2, 7, 9)},
        ValueError,
        "xa must have the last size n_state = 8, got shape (2, 7, 9)",
    ),
    # dtypes
    ({"x": array(2, 5, 8, dtype=int)}, ValueError, f"x must have one of the dtypes {FLOATING}, got int64"),
    (
        {"xa": array(2, 7, 8, dtype=np.float16)},
        ValueError,
        "xa must have the dtype of x, float32, got float16",
    ),
    # masks
    ({"mask": np.ones((5, 5), int)}, ValueError, f"{OF_MASK} int64"),
    ({"mask": array(5, 5, dtype=np.float64)}, ValueError, f"{OF_MASK} float64"),
    (
        {"x": array(2, 5, 8, dtype=np.float16), "mask": array(5, 5, dtype=ml_dtypes.bfloat16)},
        ValueError,
        "mask must have one of the dtypes bool, float16, float32 (bool, that of x, or float32), got bfloat16",
    ),
    ({"mask": array(5)}, ValueError, f"{RANKS} (5,)"),
    ({"mask": array(2, 5, 5)}, ValueError, f"{RANKS} (2, 5, 5)"),
    ({"mask": array(5, 7)}, ValueError, f"{rank_2(5)} (5, 7)"),
    ({"mask": array(5, 5), "xa": array(2, 7, 8)}, ValueError, f"{rank_2(7)} (5, 5)"),
    ({"mask": array(5, 5), "cached": (2, 7)}, ValueError, f"{rank_2(12)} (5, 5)"),
    ({"mask": array(5, 7), "cached": (2, 7)}, ValueError, f"{rank_2(12)} (5, 7)"),
    ({"mask": array(5, 7), "xa": array(2, 7, 8), "cached": (2, 9)}, ValueError, f"{rank_2(9)} (5, 7)"),
    ({"mask": array(5, 16), "xa": array(2, 7, 8), "cached": (2, 9)}, ValueError, f"{rank_2(9)} (5, 16)"),
    ({"mask": array(2, 4, 5, 1)}, ValueError, f"{rank_4(5)} (2, 4, 5, 1)"),
    ({"mask": array(2, 3, 5, 5)}, ValueError, f"{rank_4(5)} (2, 3, 5, 5)"),
    ({"mask": array(3, 1, 1, 5)}, ValueError, f"{rank_4(5)} (3, 1, 1, 5)"),
    ({"mask": array(1, 1, 4, 12), "cached": (2, 7)}, ValueError, f"{rank_4(12)} (1, 1, 4, 12)"),
]

OF_BATCH = "must have the batch size of q, B = 2 (a batch of 1 is not broadcast), got shape"

WRONG_QKV = [
    ({"causal": True, "mask": np.ones((5, 7), bool), "q": None}, ValueError, f"{NO_MASK} (5, 7)"),
    ({"mask": 1}, TypeError, "mask must be an array, got int"),
    ({"q": 1.0}, TypeError, "q must be an array, got float"),
    ({"v": [1.0]}, TypeError, "v must be an array, got list"),
    ({"q": array(2, 4, 5, 2)}, ValueError, "q must have rank 3, (B, T, n_state), got shape (2, 4, 5, 2)"),
    ({"k": array(7, 8)}, ValueError, "k must have rank 3, (B, S, n_state), got shape (7, 8)"),
    ({"q": array(2, 5, 2)}, ValueError, "q must have the last size n_state = 8, got shape (2, 5, 2)"),
    ({"v": array(2, 7, 6)}, ValueError, "v must have the last size n_state = 8, got shape (2, 7, 6)"),
    ({"k": array(1, 7, 8), "v": array(1, 7, 8)}, ValueError, f"k {OF_BATCH} (1, 7, 8)"),
    ({"v": array(3, 7, 8)}, ValueError, f"v {OF_BATCH} (3, 7, 8)"),
    ({"v": array(2, 6, 8)}, ValueError, "v must have the length of k, S = 7, got shape (2, 6, 8)"),
    (
        {"q": array(2, 5, 8, dtype=np.uint8)},
        ValueError,
        f"q must have one of the dtypes {FLOATING}, got uint8",
    ),
    ({"k": array(2, 7, 8, dtype=np.float64)}, ValueError, "k must have the dtype of q, float32, got float64"),
    (
        {"mask": np.ones((5, 7), int)},
        ValueError,
        "mask must have one of the dtypes bool, float32 (bool, that of q, or float32), got int64",
    ),
    ({"mask": array(5, 5)}, ValueError, f"{rank_2(7)} (5, 5)"),
    ({"mask": array(2, 8, 5, 7)}, ValueError, f"{rank_4(7)} (2, 8, 5, 7)"),
]

WRONG_SIZES = [
    ((8.0, 2), TypeError, "n_state must be an integer, got float"),
    ((8, "2"), TypeError, "n_head must be an integer, got str"),
    ((8, True), TypeError, "n_head must be an integer, got bool"),
    ((None, 2), TypeError, "n_state must be an integer, got NoneType"),
    ((0, 1), ValueError, "n_state must be at least 1, got 0"),
    ((-8, 2), ValueError, "n_state must be at least 1, got -8"),
    ((8, 0), ValueError, "n_head must be at least 1, got 0"),
    ((8, -2), ValueError, "n_head must be at least 1, got -2"),
    ((8, 3), ValueError, "n_head must divide n_state, 8, got 3"),
    ((8, 16), ValueError, "n_head must divide n_state, 8, got 16"),
]

CALLS = [(forward, *wrong) for wrong in WRONG_FORWARD] + [(qkv, *wrong) for wrong in WRONG_QKV]


@pytest.mark.parametrize(("call", "changes", "kind", "message"), CALLS, ids=[call[3] for call in CALLS])
def test_wrong_calls_raise_with_the_documented_text(call, changes, kind, message):
    with pytest.raises(kind) as caught:
        call(**changes)
    assert type(caught.value) is kind
    assert str(caught.value) == message


def as_torch(torch, x):
    if not isinstance(x, np.ndarray):
        return x
    return (
        torch.from_numpy(x.astype(np.float32)).bfloat16()
        if x.dtype == ml_dtypes.bfloat16
        else torch.from_numpy(x)
    )


def test_the_texts_are_the_same_for_torch():
    torch = pytest.importorskip("torch")
    right = {
        forward: {"x": torch.zeros(2, 5, 8)},
        qkv: {"q": torch.zeros(2, 5, 8), "k": torch.zeros(2, 7, 8), "v": torch.zeros(2, 7, 8)},
    }
    for call, changes, kind, message in CALLS:
        tensors = {name: as_torch(torch, value) for name, value in changes.items()}
        with pytest.raises(kind) as caught:
            call(**(right[call] | tensors))
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"causal": True},
        {"causal": True, "cached": (2, 7)},
        {"causal": True, "xa": array(2, 3, 8)},
        {"x": array(0, 5, 8)},
        {"x": array(2, 0, 8), "mask": array(0, 7), "cached": (2, 7)},
        {"xa": array(2, 0, 8), "mask": array(5, 0)},
        {"mask": np.ones((5, 5), bool)},
        {"mask": array(1, 1, 1, 5)},
        {"mask": array(5, 12), "cached": (2, 7)},
        {"mask": array(2, 1, 5, 5), "cached": (2, 0)},
        {"mask": array(5, 7), "xa": array(2, 7, 8)},
        {"mask": array(5, 7), "xa": array(2, 9, 8), "cached": (2, 7)},
        {"mask": array(5, 0), "xa": array(2, 9, 8), "cached": (2, 0)},
        {"x": array(2, 5, 8, dtype=ml_dtypes.bfloat16), "mask": array(2, 4, 5, 5)},
        {"x": array(2, 5, 8, dtype=np.float64), "xa": array(2, 3, 8, dtype=np.float64)},
    ],
    ids=str,
)
def test_right_forward_calls_pass(arguments):
    forward(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"causal": True},
        {"mask": np.ones((5, 7), bool)},
        {"mask": array(2, 4, 1, 7)},
        {"q": array(2, 0, 8)},
        {"k": array(2, 0, 8), "v": array(2, 0, 8)},
    ],
    ids=str,
)
def test_right_qkv_calls_pass(arguments):
    qkv(**arguments)


@pytest.mark.parametrize(
    ("sizes", "kind", "message"), WRONG_SIZES, ids=[message for _, _, message in WRONG_SIZES]
)
def test_wrong_sizes_raise_with_the_documented_text(sizes, kind, message):
    with pytest.raises(kind) as caught:
        check_module_sizes(*sizes)
    assert type(caught.value) is kind
    assert str(caught.value) == message


@pytest.mark.parametrize("sizes", [(8, 2), (8, 8), (1, 1), (np.int64(12), np.int32(3))])
def test_right_sizes_pass(sizes):
    check_module_sizes(*sizes)
