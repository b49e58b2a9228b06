"""Faults: the nearest wrong neighbours of a valid call, for the requirements that ask for an exception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from attn_conformance.cases import Call, KernelCase
from attn_conformance.strategies import kernel_cases
from attn_conformance.subject import Scope

Array = NDArray[Any]


def _mask(call: Call, change: Callable[[int, int, int, int], tuple[int, ...]], dtype: Any = bool) -> Call:
    (B, H, T), S = call.q.shape[:3], call.k.shape[2]
    return replace(call, mask=np.ones(change(B, H, T, S), dtype))


def _one_more(array: Array, axis: int) -> Array:
    return np.concatenate([array, array.take([0], axis=axis)], axis=axis)


FAULTS: dict[str, Callable[[Call], Call]] = {
    "mask-integer": lambda c: _mask(c, lambda B, H, T, S: (B, H, T, S), np.int32),
    "mask-one-key-more": lambda c: _mask(c, lambda B, H, T, S: (B, H, T, S + 1)),
    "mask-one-key-less": lambda c: _mask(c, lambda B, H, T, S: (B, H, T, S - 1)),
    "mask-one-query-more": lambda c: _mask(c, lambda B, H, T, S: (B, H, T + 1, S)),
    "mask-one-query-less": lambda c: _mask(c, lambda B, H, T, S: (B, H, T - 1 if T > 2 else T + 2, S)),
    "mask-one-batch-more": lambda c: _mask(c, lambda B, H, T, S: (B + 1, H, T, S)),
    "mask-one-head-more": lambda c: _mask(c, lambda B, H, T, S: (B, H + 1, T, S)),
    "mask-2d-one-key-more": lambda c: _mask(c, lambda B, H, T, S: (T, S + 1)),
    "rank-1-mask": lambda c: _mask(c, lambda B, H, T, S: (S,)),
    "rank-3-mask-by-batch": lambda c: _mask(c, lambda B, H, T, S: (B, T, S)),
    "rank-3-mask-by-head": lambda c: _mask(c, lambda B, H, T, S: (H, T, S)),
    "call-q-rank-3": lambda c: replace(c, q=c.q[:, 0]),
    "call-q-rank-5": lambda c: replace(c, q=c.q[None]),
    "call-k-rank-3": lambda c: replace(c, k=c.k[:, 0]),
    "call-v-rank-3": lambda c: replace(c, v=c.v[:, 0]),
    "call-all-rank-3": lambda c: replace(c, q=c.q[0], k=c.k[0], v=c.v[0]),
    "call-k-head-size": lambda c: replace(c, k=_one_more(c.k, 3)),
    "call-q-batch": lambda c: replace(c, q=_one_more(c.q, 0)),
    "call-k-batch": lambda c: replace(c, k=_one_more(c.k, 0)),
    "call-v-batch": lambda c: replace(c, v=_one_more(c.v, 0)),
    "call-k-longer-than-v": lambda c: replace(c, k=_one_more(c.k, 2)),
    "call-v-longer-than-k": lambda c: replace(c, v=_one_more(c.v, 2)),
}
"""By name: what is done to a valid call. The prefix says which requirement draws it."""

UNSAFE = ("call-k-longer-than-v", "call-v-longer-than-k", "call-v-batch", "call-k-batch")
"""Kernels that do not check may read out of bounds here; only those that claim to validate are asked."""

BLAMED: dict[str, tuple[str, ...]] = {
    "call-q-rank-3": ("q",),
    "call-q-rank-5": ("q",),
    "call-k-rank-3": ("k",),
    "call-v-rank-3": ("v",),
    "call-all-rank-3": ("q", "k", "v"),
    "call-k-head-size": ("k", "q"),
    "call-q-batch": ("q", "k", "v"),
    "call-k-batch": ("k", "q", "v"),
    "call-v-batch": ("v", "k", "q"),
    "call-k-longer-than-v": ("k", "v"),
    "call-v-longer-than-k": ("k", "v"),
}
"""The arguments of which the exception should name one, with its shape; masks: "mask"."""


def faulty(scope: Scope, prefix: str) -> SearchStrategy[KernelCase]:
    """Valid small cases, each with a fault of the group named by `prefix`."""
    names = [n for n in FAULTS if n.startswith(prefix) and (scope.has("validates") or n not in UNSAFE)]
    return kernel_cases(scope, fault=st.sampled_from(names))


def apply(call: Call, fault: str) -> Call:
    """The call with the fault put in."""
    return FAULTS[fault](call)
