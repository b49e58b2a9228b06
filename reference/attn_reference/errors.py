"""The documented errors of a kernel call: one wording, shared by every implementation in this project.

Arrays are known by `.shape`, `.ndim` and `.dtype` alone, so that NumPy's, PyTorch's and others' all serve.
Symbols: B batch, H query heads, Hkv key heads, T queries, S keys, D and Dv head sizes.
"""

from __future__ import annotations

import sys
from typing import Any

FLOATING = ("float64", "float32", "float16", "bfloat16")


def check_kernel_call(
    q: Any, k: Any, v: Any, mask: Any = None, is_causal: Any = False, scale: Any = None
) -> None:
    """Raise unless `attention(q, k, v, mask, is_causal, scale)` is a call that the specification defines.

    TypeError for things that are no arrays, else ValueError; both name the argument, what was expected
    of it and what it was.
    """
    for name, value in (("q", q), ("k", k), ("v", v)):
        _check_array(name, value)
    if mask is not None:
        _check_array("mask", mask)
    _check_options(mask, is_causal, scale)
    _check_shapes(q, k, v)
    _check_dtypes(q, k, v)
    if mask is not None:
        _check_mask(mask, q, k)


def check_array_type(kind: type, **arrays: Any) -> None:
    """Raise TypeError unless every array that is given (not None) is a `kind`."""
    for name, value in arrays.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a {_type_name(kind)}, got {_type_name(type(value))}")


def check_one_device(**arrays: Any) -> None:
    """Raise ValueError unless every array that is given (not None) lies on the device of the first."""
    first, *others = ((name, value.device) for name, value in arrays.items() if value is not None)
    for name, device in others:
        if device != first[1]:
            raise ValueError(f"{name} must be on the device of {first[0]}, {first[1]}, got {device}")


def _check_array(name: str, value: Any) -> None:
    if not all(hasattr(value, attribute) for attribute in ("shape", "ndim", "dtype")):
        raise TypeError(f"{name} must be an array, got {_type_name(type(value))}")


def _check_options(mask: Any, is_causal: Any, scale: Any) -> None:
    if not isinstance(is_causal, bool):
        raise ValueError(f"is_causal must be True or False, got {_type_name(type(is_causal))}")
    if is_causal and mask is not None:
        raise ValueError(f"mask must be None where is_causal is True, got {_shape(mask)}")
    if scale is None:
        return
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise ValueError(f"scale must be None or a finite number, got {_type_name(type(scale))}")
    if not abs(scale) <= sys.float_info.max:
        raise ValueError(f"scale must be None or a finite number, got {scale}")


def _check_shapes(q: Any, k: Any, v: Any) -> None:
    for name, value, axes in (("q", q, "B, H, T, D"), ("k", k, "B, Hkv, S, D"), ("v", v, "B, Hkv, S, Dv")):
        if value.ndim != 4:
            raise ValueError(f"{name} must have rank 4, ({axes}), got {_shape(value)}")
    B, H, _, D = q.shape
    _, Hkv, S, _ = k.shape
    if D == 0:
        raise ValueError(f"q must have a head size D of at least 1, got {_shape(q)}")
    for name, value in (("k", k), ("v", v)):
        if value.shape[0] != B:
            raise ValueError(
                f"{name} must have the batch size of q, B = {B} (a batch of 1 is not broadcast), "
                f"got {_shape(value)}"
            )
    if k.shape[3] != D:
        raise ValueError(f"k must have the head size of q, D = {D}, got {_shape(k)}")
    if Hkv == 0 or H % Hkv != 0:
        raise ValueError(
            f"k must have a number of heads Hkv that divides that of q, H = {H}, got {_shape(k)}"
        )
    if v.shape[1] != Hkv:
        raise ValueError(f"v must have the number of heads of k, Hkv = {Hkv}, got {_shape(v)}")
    if v.shape[2] != S:
        raise ValueError(f"v must have the length of k, S = {S}, got {_shape(v)}")


def _check_dtypes(q: Any, k: Any, v: Any) -> None:
    dtype = _dtype(q)
    if dtype not in FLOATING:
        raise ValueError(f"q must have one of the dtypes {', '.join(FLOATING)}, got {dtype}")
    for name, value in (("k", k), ("v", v)):
        if _dtype(value) != dtype:
            raise ValueError(f"{name} must have the dtype of q, {dtype}, got {_dtype(value)}")


def _check_mask(mask: Any, q: Any, k: Any) -> None:
    dtypes = tuple(dict.fromkeys(("bool", _dtype(q), "float32")))
    if _dtype(mask) not in dtypes:
        raise ValueError(
            f"mask must have one of the dtypes {', '.join(dtypes)} (bool, that of q, or float32), "
            f"got {_dtype(mask)}"
        )
    B, H, T, S = full = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if mask.ndim == 2:
        if tuple(mask.shape) != (T, S):
            raise ValueError(f"mask of rank 2 must have shape (T, S) = ({T}, {S}), got {_shape(mask)}")
    elif mask.ndim != 4:
        raise ValueError(
            f"mask must have rank 2, (T, S) = ({T}, {S}), or 4, (B, H, T, S) = ({B}, {H}, {T}, {S}), "
            f"got {_shape(mask)}"
        )
    elif mask.shape[3] != S or any(n not in (1, m) for n, m in zip(mask.shape, full, strict=True)):
        raise ValueError(
            f"mask of rank 4 must have shape (B, H, T, S) = ({B}, {H}, {T}, {S}), where B, H and T may be 1, "
            f"got {_shape(mask)}"
        )


def _dtype(array: Any) -> str:
    """The dtype's name, the same for every library."""
    return str(array.dtype).removeprefix("torch.")


def _shape(array: Any) -> str:
    return f"shape ({', '.join(str(n) for n in array.shape)}{',' if array.ndim == 1 else ''})"


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
