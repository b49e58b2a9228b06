"""Faults: the nearest wrong neighbours of a valid call, for the requirements that ask for an exception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.scope import WINDOWS

Array = NDArray[Any]
Arrays = dict[str, Array]
Sizes = tuple[int, int, int, int]


@dataclass(frozen=True)
class Fault:
    """A change of a valid call's arrays, (B, H, T, S) being its sizes.

    windows: where it can be put in, names of `scope.WINDOWS`. blamed: the arguments of which the exception should
    name one. unsafe: kernels that do not check may read out of bounds.
    """

    change: Callable[[Arrays, Sizes], Arrays]
    windows: tuple[str, ...] = WINDOWS
    blamed: tuple[str, ...] = ("mask",)
    unsafe: bool = False


def _mask(shape: Callable[[int, int, int, int], tuple[int, ...]], dtype: Any = bool) -> Fault:
    return Fault(lambda arrays, sizes: {**arrays, "mask": np.ones(shape(*sizes), dtype)})


def _changed(
    *names: str,
    by: Callable[[Array], Array],
    windows: tuple[str, ...],
    blamed: tuple[str, ...] = (),
    unsafe: bool = False,
) -> Fault:
    def change(arrays: Arrays, sizes: Sizes) -> Arrays:
        return {name: by(array) if name in names else array for name, array in arrays.items()}

    return Fault(change, windows, blamed or names, unsafe)


def _more(axis: int) -> Callable[[Array], Array]:
    return lambda array: np.concatenate([array, array.take([0], axis=axis)], axis=axis)


def _twice(array: Array) -> Array:
    return np.concatenate([array, array], axis=-1)


def _first(array: Array) -> Array:
    return np.asarray(array[0])


def _wrapped(array: Array) -> Array:
    return np.expand_dims(array, 0)


KERNEL, QKV, CROSS = ("kernel",), ("qkv",), ("cross",)
FORWARD = ("self", "cross")

FAULTS: dict[str, Fault] = {
    "mask-integer": _mask(lambda B, H, T, S: (B, H, T, S), np.int32),
    "mask-one-key-more": _mask(lambda B, H, T, S: (B, H, T, S + 1)),
    "mask-one-key-less": _mask(lambda B, H, T, S: (B, H, T, S - 1)),
    "mask-one-query-more": _mask(lambda B, H, T, S: (B, H, T + 1, S)),
    "mask-one-query-less": _mask(lambda B, H, T, S: (B, H, T - 1 if T > 2 else T + 2, S)),
    "mask-one-batch-more": _mask(lambda B, H, T, S: (B + 1, H, T, S)),
    "mask-one-head-more": _mask(lambda B, H, T, S: (B, H + 1, T, S)),
    "mask-one-key-wide": _mask(lambda B, H, T, S: (B, H, T, 1)),
    "mask-2d-one-key-more": _mask(lambda B, H, T, S: (T, S + 1)),
    "rank-1-mask": _mask(lambda B, H, T, S: (S,)),
    "rank-3-mask-by-batch": _mask(lambda B, H, T, S: (B, T, S)),
    "rank-3-mask-by-head": _mask(lambda B, H, T, S: (H, T, S)),
    "rank-3-mask-of-one-number": _mask(lambda B, H, T, S: (1, 1, 1)),
    "call-q-rank-3": _changed("q", by=lambda a: a[:, 0], windows=KERNEL),
    "call-q-rank-5": _changed("q", by=_wrapped, windows=KERNEL),
    "call-k-rank-3": _changed("k", by=lambda a: a[:, 0], windows=KERNEL),
    "call-v-rank-3": _changed("v", by=lambda a: a[:, 0], windows=KERNEL),
    "call-all-rank-3": _changed("q", "k", "v", by=_first, windows=KERNEL),
    "call-k-head-size": _changed("k", by=_more(3), windows=KERNEL, blamed=("k", "q")),
    "call-k-longer-than-v": _changed("k", by=_more(2), windows=KERNEL, blamed=("k", "v"), unsafe=True),
    "call-v-longer-than-k": _changed("v", by=_more(2), windows=KERNEL, blamed=("k", "v"), unsafe=True),
    "call-q-batch": _changed("q", by=_more(0), windows=KERNEL + QKV, blamed=("q", "k", "v")),
    "call-k-batch": _changed("k", by=_more(0), windows=KERNEL + QKV, blamed=("k", "q", "v"), unsafe=True),
    "call-v-batch": _changed("v", by=_more(0), windows=KERNEL + QKV, blamed=("v", "k", "q"), unsafe=True),
    "call-q-rank-2": _changed("q", by=_first, windows=QKV),
    "call-q-rank-4": _changed("q", by=_wrapped, windows=QKV),
    "call-k-rank-2": _changed("k", by=_first, windows=QKV),
    "call-v-rank-4": _changed("v", by=_wrapped, windows=QKV),
    "call-k-width": _changed("k", by=_more(2), windows=QKV, blamed=("k", "q")),
    "call-all-width": _changed("q", "k", "v", by=_twice, windows=QKV),
    "call-keys-longer-than-values": _changed("k", by=_more(1), windows=QKV, blamed=("k", "v"), unsafe=True),
    "call-values-longer-than-keys": _changed("v", by=_more(1), windows=QKV, blamed=("k", "v"), unsafe=True),
    "call-x-rank-2": _changed("x", by=_first, windows=FORWARD),
    "call-x-rank-4": _changed("x", by=_wrapped, windows=FORWARD),
    "call-x-width": _changed("x", by=_more(2), windows=FORWARD),
    "call-x-batch": _changed("x", by=_more(0), windows=CROSS, blamed=("x", "xa")),
    "call-xa-rank-2": _changed("xa", by=_first, windows=CROSS),
    "call-xa-rank-4": _changed("xa", by=_wrapped, windows=CROSS),
    "call-xa-width": _changed("xa", by=_more(2), windows=CROSS),
    "call-xa-batch": _changed("xa", by=_more(0), windows=CROSS, blamed=("xa", "x")),
}
"""By name: what is done to a valid call. The prefix says which requirement asks for the exception."""


def put(fault: str, arrays: Arrays, sizes: Sizes) -> Arrays:
    """The arrays of a call with a fault put in; those of "none", and of labels that are no fault, as they are."""
    return FAULTS[fault].change(arrays, sizes) if fault in FAULTS else arrays


def named(prefix: str, window: str, *, unsafe: bool) -> list[str]:
    """Names of the faults of a group that a window has room for; unsafe: also those that need a check."""
    return [
        name
        for name, fault in FAULTS.items()
        if name.startswith(prefix) and window in fault.windows and (unsafe or not fault.unsafe)
    ]
