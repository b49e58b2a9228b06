"""Wrong calls raise the documented exceptions, with one wording for every array library."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from attn_reference.errors import check_array_type, check_kernel_call, check_one_device


def array(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def call(**changes):
    """A right call, B = 2, H = 4, Hkv = 2, T = 5, S = 7, D = 8, Dv = 6, with some arguments replaced."""
    right = {"q": array(2, 4, 5, 8), "k": array(2, 2, 7, 8), "v": array(2, 2, 7, 6)}
    check_kernel_call(**(right | changes))


half = {
    "q": array(2, 4, 5, 8, dtype=np.float16),
    "k": array(2, 2, 7, 8, dtype=np.float16),
    "v": array(2, 2, 7, 6, dtype=np.float16),
}
FLOATING = "float64, float32, float16, bfloat16"
OF_MASK = "mask must have one of the dtypes bool, float32 (bool, that of q, or float32), got"
RANK_4 = "mask of rank 4 must have shape (B, H, T, S) = (2, 4, 5, 7), where B, H and T may be 1, got shape"
RANKS = "mask must have rank 2, (T, S) = (5, 7), or 4, (B, H, T, S) = (2, 4, 5, 7), got shape"
BATCH = "must have the batch size of q, B = 2 (a batch of 1 is not broadcast), got shape"
HEADS = "k must have a number of heads Hkv that divides that of q, H = 4, got shape"
NO_MASK = "mask must be None where is_causal is True, got shape"

WRONG = [
    # no arrays
    ({"q": [[1.0]]}, TypeError, "q must be an array, got list"),
    ({"k": None}, TypeError, "k must be an array, got NoneType"),
    ({"v": 1.0}, TypeError, "v must be an array, got float"),
    ({"mask": True}, TypeError, "mask must be an array, got bool"),
    ({"mask": SimpleNamespace()}, TypeError, "mask must be an array, got types.SimpleNamespace"),
    ({"mask": [1], "is_causal": True}, TypeError, "mask must be an array, got list"),
    # options
    ({"is_causal": 1}, ValueError, "is_causal must be True or False, got int"),
    ({"is_causal": None}, ValueError, "is_causal must be True or False, got NoneType"),
    ({"scale": True}, ValueError, "scale must be None or a finite number, got bool"),
    ({"scale": "1"}, ValueError, "scale must be None or a finite number, got str"),
    ({"scale": array()}, ValueError, "scale must be None or a finite number, got numpy.ndarray"),
    ({"scale": float("nan")}, ValueError, "scale must be None or a finite number, got nan"),
    ({"scale": float("-inf")}, ValueError, "scale must be None or a finite number, got -inf"),
    ({"scale": 10**309}, ValueError, f"scale must be None or a finite number, got {10**309}"),
    # a mask beside is_causal, whatever the mask
    ({"is_causal": True, "mask": np.ones((5, 7), bool)}, ValueError, f"{NO_MASK} (5, 7)"),
    ({"is_causal": True, "mask": array(1, 1, 5, 7)}, ValueError, f"{NO_MASK} (1, 1, 5, 7)"),
    ({"is_causal": True, "mask": np.ones(7, int)}, ValueError, f"{NO_MASK} (7,)"),
    # shapes
    ({"q": array(4, 5, 8)}, ValueError, "q must have rank 4, (B, H, T, D), got shape (4, 5, 8)"),
    ({"k": array(7)}, ValueError, "k must have rank 4, (B, Hkv, S, D), got shape (7,)"),
    (
        {"v": array(1, 2, 2, 7, 6)},
        ValueError,
        "v must have rank 4, (B, Hkv, S, Dv), got shape (1, 2, 2, 7, 6)",
    ),
    ({"q": array()}, ValueError, "q must have rank 4, (B, H, T, D), got shape ()"),
    ({"q": array(2, 4, 5, 0)}, ValueError, "q must have a head size D of at least 1, got shape (2, 4, 5, 0)"),
    ({"k": array(3, 2, 7, 8)}, ValueError, f"k {BATCH} (3, 2, 7, 8)"),
    ({"k": array(1, 2, 7, 8), "v": array(1, 2, 7, 6)}, ValueError, f"k {BATCH} (1, 2, 7, 8)"),
    ({"v": array(1, 2, 7, 6)}, ValueError, f"v {BATCH} (1, 2, 7, 6)"),
    ({"k": array(2, 2, 7, 9)}, ValueError, "k must have the head size of q, D = 8, got shape (2, 2, 7, 9)"),
    ({"k": array(2, 3, 7, 8)}, ValueError, f"{HEADS} (2, 3, 7, 8)"),
    ({"k": array(2, 8, 7, 8)}, ValueError, f"{HEADS} (2, 8, 7, 8)"),
    ({"k": array(2, 0, 7, 8)}, ValueError, f"{HEADS} (2, 0, 7, 8)"),
    (
        {"v": array(2, 4, 7, 6)},
        ValueError,
        "v must have the number of heads of k, Hkv = 2, got shape (2, 4, 7, 6)",
    ),
    ({"v": array(2, 2, 8, 6)}, ValueError, "v must have the length of k, S = 7, got shape (2, 2, 8, 6)"),
    # dtypes
    ({"q": array(2, 4, 5, 8, dtype=int)}, ValueError, f"q must have one of the dtypes {FLOATING}, got int64"),
    (
        {"q": array(2, 4, 5, 8, dtype=complex)},
        ValueError,
        f"q must have one of the dtypes {FLOATING}, got complex128",
    ),
    ({"k": half["k"]}, ValueError, "k must have the dtype of q, float32, got float16"),
    ({"v": half["v"]}, ValueError, "v must have the dtype of q, float32, got float16"),
    # masks
    ({"mask": np.ones((5, 7), int)}, ValueError, f"{OF_MASK} int64"),
    ({"mask": np.ones((5, 7), np.uint8)}, ValueError, f"{OF_MASK} uint8"),
    ({"mask": array(5, 7, dtype=np.float64)}, ValueError, f"{OF_MASK} float64"),
    ({"mask": array(5, 7, dtype=np.float16)}, ValueError, f"{OF_MASK} float16"),
    (
        half | {"mask": array(5, 7, dtype=ml_dtypes.bfloat16)},
        ValueError,
        "mask must have one of the dtypes bool, float16, float32 (bool, that of q, or float32), got bfloat16",
    ),
    ({"mask": array(5, 6)}, ValueError, "mask of rank 2 must have shape (T, S) = (5, 7), got shape (5, 6)"),
    ({"mask": array(1, 7)}, ValueError, "mask of rank 2 must have shape (T, S) = (5, 7), got shape (1, 7)"),
    ({"mask": array(5, 1)}, ValueError, "mask of rank 2 must have shape (T, S) = (5, 7), got shape (5, 1)"),
    ({"mask": array(7)}, ValueError, f"{RANKS} (7,)"),
    ({"mask": array(2, 5, 7)}, ValueError, f"{RANKS} (2, 5, 7)"),
    ({"mask": array()}, ValueError, f"{RANKS} ()"),
    ({"mask": array(2, 4, 5, 1)}, ValueError, f"{RANK_4} (2, 4, 5, 1)"),
    ({"mask": array(2, 4, 5, 8)}, ValueError, f"{RANK_4} (2, 4, 5, 8)"),
    ({"mask": array(2, 4, 4, 7)}, ValueError, f"{RANK_4} (2, 4, 4, 7)"),
    ({"mask": array(2, 2, 5, 7)}, ValueError, f"{RANK_4} (2, 2, 5, 7)"),
    ({"mask": array(3, 4, 5, 7)}, ValueError, f"{RANK_4} (3, 4, 5, 7)"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_wrong_calls_raise_with_the_documented_text(changes, kind, message):
    with pytest.raises(kind) as caught:
        call(**changes)
    assert type(caught.value) is kind
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"is_causal": True},
        {"is_causal": True, "q": array(2, 4, 9, 8)},
        {"scale": 0},
        {"scale": -0.5},
        {"scale": np.float64(2)},
        {"mask": np.ones((5, 7), bool)},
        {"mask": array(5, 7)},
        {"mask": array(1, 1, 1, 7)},
        {"mask": array(2, 1, 5, 7)},
        {"mask": array(1, 4, 1, 7)},
        {"q": array(2, 4, 1, 8), "mask": array(1, 7)},
        {"k": array(2, 2, 1, 8), "v": array(2, 2, 1, 6), "mask": array(2, 4, 5, 1)},
        {"k": array(2, 1, 7, 8), "v": array(2, 1, 7, 6)},
        {"q": array(2, 4, 0, 8), "mask": array(0, 7)},
        {"k": array(2, 2, 0, 8), "v": array(2, 2, 0, 6), "mask": array(5, 0)},
        {"q": array(0, 4, 5, 8), "k": array(0, 2, 7, 8), "v": array(0, 2, 7, 6)},
        {"v": array(2, 2, 7, 0)},
        half,
        half | {"mask": array(5, 7)},
        half | {"mask": array(5, 7, dtype=np.float16)},
        {name: x.astype(ml_dtypes.bfloat16) for name, x in half.items()},
        {name: x.astype(np.float64) for name, x in half.items()} | {"mask": array(5, 7)},
    ],
    ids=str,
)
def test_right_calls_pass(changes):
    call(**changes)


def test_the_texts_are_the_same_for_torch():
    torch = pytest.importorskip("torch")
    for changes, kind, message in WRONG:
        changes = {
            name: torch.from_numpy(x.astype(np.float32)).bfloat16()
            if isinstance(x, np.ndarray) and x.dtype == ml_dtypes.bfloat16
            else torch.from_numpy(x)
            if isinstance(x, np.ndarray)
            else x
            for name, x in changes.items()
        }
        tensors = {"q": torch.zeros(2, 4, 5, 8), "k": torch.zeros(2, 2, 7, 8), "v": torch.zeros(2, 2, 7, 6)}
        with pytest.raises(kind) as caught:
            check_kernel_call(**(tensors | changes))
        assert str(caught.value) == message.replace("numpy.ndarray", "torch.Tensor")


def test_array_types():
    check_array_type(np.ndarray, q=array(1), mask=None)
    with pytest.raises(TypeError) as caught:
        check_array_type(np.ndarray, q=array(1), k=np.float32(1))
    assert str(caught.value) == "k must be a numpy.ndarray, got numpy.float32"


def test_one_device():
    here, there = SimpleNamespace(device="cpu"), SimpleNamespace(device="cuda:0")
    check_one_device(q=here, k=here, mask=None)
    check_one_device(q=there)
    with pytest.raises(ValueError, match=r"^mask must be on the device of q, cpu, got cuda:0$"):
        check_one_device(q=here, k=here, mask=there)


def test_wrong_calls_raise_without_asserts():
    script = """
        import numpy as np
        from attn_reference.errors import check_kernel_call
        q = np.zeros((1, 2, 3, 4), np.float32)
        wrong = [
            dict(q=[1], k=q, v=q), dict(q=q, k=q[0], v=q), dict(q=q, k=q, v=q[:, :, :2]),
            dict(q=q, k=q, v=q, mask=np.ones((3, 3), int)), dict(q=q, k=q, v=q, mask=np.ones(3, bool)),
            dict(q=q, k=q, v=q, mask=np.ones((3, 3), bool), is_causal=True), dict(q=q, k=q, v=q, scale="1"),
        ]
        for arguments in wrong:
            try:
                check_kernel_call(**arguments)
            except (TypeError, ValueError):
                continue
            raise SystemExit(f"accepted: {arguments}")
    """
    done = subprocess.run(
        [sys.executable, "-O", "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
