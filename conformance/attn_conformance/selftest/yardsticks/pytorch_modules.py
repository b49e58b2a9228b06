"""In the manner of PyTorch's tests of nn.MultiheadAttention: many small modules against the formula in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.selftest.yardsticks import formula
from attn_conformance.selftest.yardsticks.posing import Array, as_module, close, forward, refuses
from attn_conformance.subject import Subject

SEED = 0
"""Their tests draw anew; here the inputs are fixed."""

TIMES = 25
"""Modules of each kind, of their 100."""


def params(rng: np.random.Generator, size: int) -> dict[str, Array]:
    """As nn.MultiheadAttention begins: weights within the bound of Xavier, of q, k and v together; biases of zero."""
    inner, outer = (6 / (4 * size)) ** 0.5, size**-0.5
    limits = {"query": inner, "key": inner, "value": inner, "out": outer}
    named = {
        f"{part}.weight": rng.uniform(-limit, limit, (size, size)).astype(np.float32)
        for part, limit in limits.items()
    }
    return named | {f"{part}.bias": np.zeros(size, np.float32) for part in ("query", "value", "out")}


def _uniform(rng: np.random.Generator, *shape: int) -> Array:
    return rng.random(shape).astype(np.float32)


def _serves(subject: Subject, *features: str) -> bool:
    return "float32" in subject.claims.dtypes and subject.claims.features >= set(features)


def one_query(subject: Subject) -> bool:
    """test_multihead_attention: one query, 2 to 10 keys in batches of 2 to 10, D 3 to 10, 4 to 10 heads; atol = 1e-5.

    A floating mask of zeros and -inf (1, S), and with it, in half of them, a boolean one over keys. Where no key is
    left both have NaN there, and here one key is always left. 25 of 100 each; no weights returned, no added keys.
    """
    module = as_module(subject)
    if module is None or not _serves(subject, "cross", "bool-mask", "float-mask"):
        return False
    rng = np.random.default_rng(SEED)
    for padded in [False] * TIMES + [True] * TIMES:
        B, S, D = (int(rng.integers(low, 11)) for low in (2, 2, 3))
        H = 2 * int(rng.integers(2, 6))
        weights = params(rng, H * D)
        x, xa = _uniform(rng, B, 1, H * D), _uniform(rng, B, S, H * D)
        seen: Array = np.asarray(rng.integers(0, 2, (2 if padded else 1, S)).astype(bool).all(axis=0))
        seen[rng.integers(0, S)] = True
        added = np.where(seen, 0, -np.inf).astype(np.float32)[None]
        mask = np.broadcast_to(seen, (B, 1, 1, S)).copy() if padded else added
        got = forward(module, module.build(weights, H, False), x, xa, mask)
        close(got, formula.module(x, xa, weights, H, mask), 1e-7, 1e-5, f"B={B} H={H} S={S} D={D}, one query")
    return True


def mask_planes(subject: Subject) -> bool:
    """test_multihead_attn_3d_attn_mask: a floating plane for each of 8 elements gives what each gives alone."""
    module = as_module(subject)
    if module is None or not _serves(subject, "cross", "float-mask"):
        return False
    rng = np.random.default_rng(SEED)
    x, xa = _uniform(rng, 8, 2, 8), _uniform(rng, 8, 3, 8)
    seen = rng.integers(0, 2, (8, 1, 2, 3)).astype(bool)
    mask = np.where(seen, 0, -np.inf).astype(np.float32)
    handle = module.build(params(rng, 8), 4, False)
    together = forward(module, handle, x, xa, mask)
    for n in range(8):
        alone = forward(module, handle, x[n : n + 1], xa[n : n + 1], mask[n, 0])
        close(together[n : n + 1], alone, 1.3e-6, 1e-5, f"element {n} alone")
    return True


def two_masks(subject: Subject) -> bool:
    """test_multihead_self_attn_two_masks_fast_path: 7 heads of 2, length 5; a mask spread over heads or not.

    Their two paths are here two spellings of one boolean mask. Rows without a key are left out, as there.
    """
    module = as_module(subject)
    if module is None or not _serves(subject, "bool-mask"):
        return False
    rng = np.random.default_rng(SEED)
    x = _uniform(rng, 8, 5, 14)
    mask = rng.integers(0, 2, (8, 1, 5, 5)).astype(bool) & rng.integers(0, 2, (8, 1, 1, 5)).astype(bool)
    handle = module.build(params(rng, 14), 7, False)
    some: Array = np.asarray(mask.any(axis=3))[:, 0]
    one = forward(module, handle, x, None, mask)
    other = forward(module, handle, x, None, np.broadcast_to(mask, (8, 7, 5, 5)).copy())
    close(one[some], other[some], 1.3e-6, 1e-5, "a mask spread over heads")
    return True


def invalid_shapes(subject: Subject) -> bool:
    """test_multihead_attn_invalid_shape, with 4 of everything: 2-D keys, 1-D masks, 3-D ones of a wrong size raise."""
    module = as_module(subject)
    if module is None or not _serves(subject, "cross", "bool-mask"):
        return False
    rng = np.random.default_rng(SEED)
    x = _uniform(rng, 4, 4, 4)
    handle = module.build(params(rng, 4), 4, False)
    wrong: tuple[tuple[str, Array, Any, Any], ...] = (
        ("2-D xa", x, x[0], None),
        ("2-D x", x[0], x, None),
        ("a 1-D mask", x, x, np.array([False, False, True, True])),
        ("a 3-D mask of five planes", x, x, rng.integers(0, 2, (5, 4, 4)).astype(bool)),
    )
    for what, queries, keys, mask in wrong:
        refuses(lambda given=(queries, keys, mask): forward(module, handle, *given), what)  # type: ignore[misc]
    return True


TESTS = (one_query, mask_planes, two_masks, invalid_shapes)
