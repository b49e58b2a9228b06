"""The documented errors: one wording, shared by every implementation in this project.

Arrays are known by `.shape`, `.ndim` and `.dtype` alone, so that NumPy's, PyTorch's and others' all serve.
Symbols: B batch, H query heads, Hkv key heads, T queries, S keys, D and Dv head sizes.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from numbers import Integral
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
    _check_dtypes(q=q, k=k, v=v)
    if mask is not None:
        _check_mask(mask, "q", q, full=(q.shape[0], q.shape[1], q.shape[2], k.shape[2]))


def check_module_sizes(n_state: Any, n_head: Any) -> None:
    """Raise unless a module of these sizes can be constructed: integers of at least 1, n_head divides n_state.

    TypeError for what is no integer (a bool is none), else ValueError.
    """
    for name, value in (("n_state", n_state), ("n_head", n_head)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {_type_name(type(value))}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if n_state % n_head != 0:
        raise ValueError(f"n_head must divide n_state, {n_state}, got {n_head}")


def check_forward_call(
    x: Any,
    xa: Any = None,
    mask: Any = None,
    *,
    n_state: int,
    n_head: int,
    causal: bool,
    cached: tuple[int, int] | None = None,
) -> None:
    """Raise unless `module(x, xa, mask, kv_cache)` is a call that the specification defines.

    cached: batch size and length of the entry that this call continues: in self-attention the keys in front of
    x's own, in cross-attention the keys in place of xa's, whose length is then free. None: there is no entry.
    TypeError for things that are no arrays, else ValueError; both name the argument, what was expected of it
    and what it was.
    """
    _check_mask_is_allowed(mask, causal)
    _check_array("x", x)
    if xa is not None:
        _check_array("xa", xa)
    _check_sequence("x", x, "B, T, n_state", n_state)
    if xa is not None:
        _check_sequence("xa", xa, "B, S, n_state", n_state)
        _check_batch("xa", xa, "x", x)
    B, T, _ = x.shape
    if cached is not None and cached[0] != B:
        raise ValueError(
            f"kv_cache must hold entries of the batch size of x, B = {B} (a batch of 1 is not broadcast), "
            f"got a batch size of {cached[0]}"
        )
    _check_dtypes(x=x, **({} if xa is None else {"xa": xa}))
    if mask is not None:
        if xa is None:
            S = T if cached is None else cached[1] + T
        elif cached is None:
            S = xa.shape[1]
        else:
            S = cached[1]
        _check_mask(mask, "x", x, full=(B, n_head, T, S))


def cached_entries(kv_cache: Any, key: Any, value: Any, n_state: int) -> tuple[Any, Any] | None:
    """The keys and values that a cache holds, None where it holds none or is None itself.

    key and value: where in the mapping they are. Raises TypeError for what is no mutable mapping or no array,
    and ValueError for entries that cannot belong together.
    """
    if kv_cache is None:
        return None
    if not isinstance(kv_cache, MutableMapping):
        raise TypeError(f"kv_cache must be a mutable mapping, got {_type_name(type(kv_cache))}")
    entries = {name: kv_cache[at] for name, at in (("key", key), ("value", value)) if at in kv_cache}
    if not entries:
        return None
    if len(entries) == 1:
        raise ValueError(
            f"kv_cache must hold entries for key and value or for neither, got {next(iter(entries))} alone"
        )
    for name, entry in entries.items():
        _check_array(f"kv_cache[{name}]", entry)
        if entry.ndim != 3 or entry.shape[2] != n_state:
            raise ValueError(
                f"kv_cache[{name}] must have shape (B, S, n_state), n_state = {n_state}, got {_shape(entry)}"
            )
    keys, values = entries["key"], entries["value"]
    if values.shape != keys.shape:
        raise ValueError(
            f"kv_cache[value] must have the shape of kv_cache[key], {tuple(keys.shape)}, got {_shape(values)}"
        )
    return keys, values


def check_qkv_call(
    q: Any, k: Any, v: Any, mask: Any = None, *, n_state: int, n_head: int, causal: bool
) -> None:
    """Raise unless `module.qkv_attention(q, k, v, mask)` is a call that the specification defines.

    Exceptions as for `check_forward_call`.
    """
    _check_mask_is_allowed(mask, causal)
    arrays = (("q", q), ("k", k), ("v", v))
    for name, value in arrays:
        _check_array(name, value)
    for name, value in arrays:
        _check_sequence(name, value, "B, T, n_state" if name == "q" else "B, S, n_state", n_state)
    _check_batch("k", k, "q", q)
    _check_batch("v", v, "q", q)
    _check_length(k, v)
    _check_dtypes(q=q, k=k, v=v)
    if mask is not None:
        _check_mask(mask, "q", q, full=(q.shape[0], n_head, q.shape[1], k.shape[1]))


def check_array_type(kind: type, **arrays: Any) -> None:
    """Raise TypeError unless every array that is given (not None) is a `kind`."""
    for name, value in arrays.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a {_type_name(kind)}, got {_type_name(type(value))}")


def check_one_dtype(**arrays: Any) -> None:
    """Raise ValueError unless every array has the dtype of the first."""
    first, *others = ((name, _dtype(value)) for name, value in arrays.items())
    for name, dtype in others:
        if dtype != first[1]:
            raise ValueError(f"{name} must have the dtype of {first[0]}, {first[1]}, got {dtype}")


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
    _, H, _, D = q.shape
    Hkv = k.shape[1]
    if D == 0:
        raise ValueError(f"q must have a head size D of at least 1, got {_shape(q)}")
    _check_batch("k", k, "q", q)
    _check_batch("v", v, "q", q)
    if k.shape[3] != D:
        raise ValueError(f"k must have the head size of q, D = {D}, got {_shape(k)}")
    if Hkv == 0 or H % Hkv != 0:
        raise ValueError(
            f"k must have a number of heads Hkv that divides that of q, H = {H}, got {_shape(k)}"
        )
    if v.shape[1] != Hkv:
        raise ValueError(f"v must have the number of heads of k, Hkv = {Hkv}, got {_shape(v)}")
    _check_length(k, v)


def _check_mask_is_allowed(mask: Any, causal: bool) -> None:
    if mask is None:
        return
    _check_array("mask", mask)
    if causal:
        raise ValueError(f"mask must be None where causal is True, got {_shape(mask)}")


def _check_sequence(name: str, value: Any, axes: str, n_state: int) -> None:
    if value.ndim != 3:
        raise ValueError(f"{name} must have rank 3, ({axes}), got {_shape(value)}")
    if value.shape[2] != n_state:
        raise ValueError(f"{name} must have the last size n_state = {n_state}, got {_shape(value)}")


def _check_batch(name: str, value: Any, first_name: str, first: Any) -> None:
    if value.shape[0] != first.shape[0]:
        raise ValueError(
            f"{name} must have the batch size of {first_name}, B = {first.shape[0]} "
            f"(a batch of 1 is not broadcast), got {_shape(value)}"
        )


def _check_length(k: Any, v: Any) -> None:
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"v must have the length of k, S = {k.shape[-2]}, got {_shape(v)}")


def _check_dtypes(**arrays: Any) -> None:
    name, first = next(iter(arrays.items()))
    if _dtype(first) not in FLOATING:
        raise ValueError(f"{name} must have one of the dtypes {', '.join(FLOATING)}, got {_dtype(first)}")
    check_one_dtype(**arrays)


def _check_mask(mask: Any, first_name: str, first: Any, full: tuple[int, int, int, int]) -> None:
    dtypes = tuple(dict.fromkeys(("bool", _dtype(first), "float32")))
    if _dtype(mask) not in dtypes:
        raise ValueError(
            f"mask must have one of the dtypes {', '.join(dtypes)} (bool, that of {first_name}, or float32), "
            f"got {_dtype(mask)}"
        )
    B, H, T, S = full
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
