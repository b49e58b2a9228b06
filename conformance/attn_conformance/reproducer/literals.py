"""Literals: exact Python expressions for arrays, the shortest that is found."""

from __future__ import annotations

import base64
import textwrap
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.reproducer.simpler import PERIOD, pattern

Array = NDArray[Any]

WIDTH = 104
"""Columns of a line of an expression, beside its indent and the name before it."""

NESTED = 90
"""Characters up to which lists are nested as the array is; longer ones are flat, and reshaped."""

SHORT = 8
"""Elements up to which booleans are spelled out."""

OPAQUE = 5
"""Lines that numbers may take before bytes are taken in their place."""


def dtype_of(array: Array) -> str:
    """How the dtype is spelled."""
    plain = {"bool": "bool", "float64": "float"}
    name = array.dtype.name
    return plain.get(name, f"ml_dtypes.{name}" if name == "bfloat16" else f"np.{name}")


def number(value: Any) -> str:
    """The shortest spelling of one element that its dtype reads back as the same."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    exact = float(value)
    if not np.isfinite(exact):
        return {"nan": "np.nan", "inf": "np.inf", "-inf": "-np.inf"}[str(exact)]
    kind = type(value)
    candidates = [str(int(exact))] if exact == int(exact) and abs(exact) < 1e6 else []
    candidates += [f"{exact:.{digits}g}" for digits in range(1, 17)] + [repr(exact)]
    # A negative zero is written as such: it differs bit for bit.
    if exact == 0:
        return "-0.0" if np.signbit(exact) else "0"
    return next(text for text in candidates if kind(float(text)) == value)


def expression(array: Array) -> str:
    """An expression whose value has the dtype, shape and elements of `array`, C-contiguous; it may have lines."""

    def length(text: str) -> tuple[bool, int, int]:
        return max(map(len, text.split("\n"))) > WIDTH, text.count("\n"), len(text)

    return min(_candidates(array), key=length)


def _candidates(array: Array) -> Iterator[str]:
    shape, dtype = _shape(array.shape), dtype_of(array)
    flat = array.reshape(-1)
    if not flat.size:
        yield f"np.zeros({shape}, {dtype})"
        return
    if (flat.view(np.uint8).reshape(flat.size, -1) == flat[:1].view(np.uint8)).all():
        one = number(flat[0])
        if one in ("0", "False"):
            yield f"np.zeros({shape}, {dtype})"
        elif one in ("1", "True"):
            yield f"np.ones({shape}, {dtype})"
        else:
            yield f"np.full({shape}, {one}, {dtype})"
    yield from _matrices(array, dtype)
    starts = range(PERIOD if array.dtype != np.bool_ else 0)
    for start, divisor in ((start, divisor) for start in starts for divisor in (4, 3)):
        if np.array_equal(pattern(start, flat.size, divisor).astype(array.dtype), flat):
            steps = f"np.arange({start}, {start + flat.size})" if start else f"np.arange({flat.size})"
            cast = "" if dtype == "float" else f".astype({dtype})"
            reshape = f".reshape{shape}" if array.ndim > 1 else ""
            yield f"(({steps} * 3 % {PERIOD} - {PERIOD // 2}) / {divisor}){reshape}{cast}"
    for axis, size in enumerate(array.shape):
        first = np.ascontiguousarray(array.take([0], axis=axis))
        if size > 1 and np.broadcast_to(first, array.shape).tobytes() == array.tobytes():
            yield f"{expression(first)}.repeat({size}, axis={axis})"
            break
    if array.dtype == np.bool_ and array.shape[-1] == array.size:
        count, place = int(flat.sum()), np.arange(flat.size)
        if np.array_equal(flat, place < count):
            yield f"(np.arange({flat.size}) < {count}).reshape{_called(shape)}"
        if np.array_equal(flat, place >= flat.size - count):
            yield f"(np.arange({flat.size}) >= {flat.size - count}).reshape{_called(shape)}"
    yield from _numbers(array, shape, dtype)


def _matrices(array: Array, dtype: str) -> Iterator[str]:
    """Triangles, and matrices that select features: at most a single one in each row."""
    if array.ndim != 2 or min(array.shape) < 2:
        return
    rows, columns = array.shape
    if np.array_equal(array, np.tri(rows, columns, columns - rows)):
        yield f"np.tri({rows}, {columns}, {columns - rows}, dtype={dtype})"
    ones = array == 1
    if np.array_equal(array, ones) and (ones.sum(axis=1) <= 1).all() and not np.signbit(array).any():
        filled = ones.any(axis=1)
        chosen = np.where(filled, ones.argmax(axis=1), columns).tolist()
        size = f"{columns}" if filled.all() else f"{columns + 1}, {columns}"
        if chosen == list(range(columns)):
            yield f"np.eye({size}, dtype={dtype})"
        if rows == columns and chosen == [(n + chosen[0]) % columns for n in range(columns)]:
            yield f"np.roll(np.eye({size}, dtype={dtype}), {chosen[0]}, axis=1)"
        yield f"np.eye({size}, dtype={dtype})[{_wrapped(chosen)}]"


def _numbers(array: Array, shape: str, dtype: str) -> Iterator[str]:
    flat = [number(value) for value in array.reshape(-1)]
    if sum(map(len, flat)) < NESTED * OPAQUE:
        if dtype == "bool" and array.size > SHORT:
            flat = ["1" if value == "True" else "0" for value in flat]
        nested = _nested(iter(flat), array.shape)
        cast = (
            ""
            if (dtype == "bool" and "e" in nested) or (dtype == "float" and "." in nested)
            else f", {dtype}"
        )
        if len(nested) <= NESTED:
            yield f"np.array({nested}{cast})"
    lines = textwrap.wrap(", ".join(flat), WIDTH - 4)
    if len(lines) <= OPAQUE:
        body = "\n".join(f"    {line}" for line in lines)
        yield f"np.array([\n{body}\n], {dtype}).reshape{_called(shape)}"
        return
    coded = base64.b85encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    pieces = textwrap.wrap(coded, WIDTH - 7, break_on_hyphens=False)
    body = "\n".join(f'    b"{piece}"' for piece in pieces)
    data = f"zlib.decompress(base64.b85decode(\n{body}\n))"
    yield f"np.frombuffer(bytearray({data}), {dtype}).reshape{_called(shape)}"


def _nested(flat: Iterator[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return next(flat)
    return "[" + ", ".join(_nested(flat, shape[1:]) for _ in range(shape[0])) + "]"


def _wrapped(numbers: list[int]) -> str:
    text = ", ".join(map(str, numbers))
    if len(text) <= NESTED - 20:
        return f"[{text}]"
    return "[\n" + "\n".join(f"    {line}" for line in textwrap.wrap(text, WIDTH - 4)) + "\n]"


def _shape(shape: tuple[int, ...]) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)


def _called(shape: str) -> str:
    return shape if shape.startswith("(") else f"({shape})"
