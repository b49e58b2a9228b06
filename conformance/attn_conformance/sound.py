"""Cases from files of unknown origin: only those are sound that the suite could have drawn itself."""

from __future__ import annotations

import sys
import types
from collections.abc import Container, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from attn_conformance.cases import (
    Case,
    ForwardCase,
    KernelCase,
    Mask,
    ScriptCase,
    SizesCase,
    Step,
    case_from_json,
    upstream,
)
from attn_conformance.cases.layouts import LAYOUTS
from attn_conformance.cases.masks import BIASES, HEAD_SPECIAL, STRUCTURES
from attn_conformance.cases.script import ACTS
from attn_conformance.cases.values import FAMILIES, POISONS, STORAGE
from attn_conformance.faults import FAULTS
from attn_conformance.scope import WINDOWS
from attn_conformance.stage import REJECTED

LARGEST = 1 << 20
"""Magnitude of the largest size: the suite draws up to 32768."""

ELEMENTS = 1 << 26
"""Elements of the largest array, half a gigabyte in float64: the suite draws up to 2 ** 24."""

SEEDS = 1 << 32
"""Seeds lie below."""

HINTS = {kind: get_type_hints(kind) for kind in (KernelCase, ForwardCase, ScriptCase, SizesCase, Mask, Step)}
"""The types of fields, by class: found once, since every case of a run is looked at."""

NAMES: dict[tuple[type, str], Container[Any]] = {
    **{(kind, "dtype"): STORAGE for kind in (KernelCase, ForwardCase, ScriptCase, SizesCase)},
    (ForwardCase, "weights_dtype"): (None, *STORAGE),
    (KernelCase, "values"): FAMILIES,
    (KernelCase, "poison"): POISONS,
    (KernelCase, "layout"): LAYOUTS,
    (KernelCase, "grad"): ("off", "on", "inference"),
    (KernelCase, "window"): WINDOWS,
    (KernelCase, "fault"): ("none", "nan-q", "nan-k", "nan-v", *FAULTS),
    **{(kind, "dout"): upstream.FAMILIES for kind in (KernelCase, ForwardCase)},
    **{(kind, "dout_layout"): upstream.LAYOUTS for kind in (KernelCase, ForwardCase)},
    (Mask, "structure"): (*STRUCTURES, *HEAD_SPECIAL),
    (Mask, "bias"): BIASES,
    (Mask, "dtype"): ("bool", "q", "float32"),
    (Mask, "axes"): ("ts", *(b + h + t + s for b in "b1" for h in "h1" for t in "t1" for s in "s1")),
    (Mask, "planes"): ("same", "each"),
    (Mask, "layout"): ("contiguous", "sliced"),
    (Step, "act"): ACTS,
    (Step, "fault"): ("none", *REJECTED),
}
"""By class and field: the names that it can hold."""


def sound_case(data: object) -> Case:
    """The case in parsed JSON; ValueError unless its fields hold what they can, and its arrays can be made."""
    if not isinstance(data, Mapping) or not isinstance(data.get("kind"), str):
        raise ValueError("it is no case")
    try:
        case = case_from_json(data)
    except (
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # a field that holds something else than it should
        raise ValueError(f"not a {data['kind']} case: {error}") from error
    _look_at(case)
    return case


def _look_at(value: Any) -> None:
    """ValueError unless a dataclass, and those within it, hold the types, names and sizes that they can."""
    hints = HINTS[type(value)]
    for each in fields(value):
        content = getattr(value, each.name)
        named = NAMES.get((type(value), each.name))
        fits = _fits(content, range(SEEDS) if each.name == "seed" else hints[each.name])
        if not fits or (named is not None and content not in named):
            raise ValueError(f"{each.name} cannot be {content!r:.80}")
        for inner in content if isinstance(content, tuple) else (content,):
            if is_dataclass(inner):
                _look_at(inner)
    if (elements := _elements(value)) > ELEMENTS:
        raise ValueError(f"arrays of {elements} elements are too large")


def _elements(value: Any) -> int:
    """Elements of the largest array of a case: tokens, or scores under a full mask."""
    if not isinstance(value, KernelCase | ForwardCase | ScriptCase):
        return 0
    rows = value.batch * value.heads
    if isinstance(value, ScriptCase):
        held = sum(step.length for step in value.steps)
        return rows * (held + value.keys) * max(value.head_size, held)
    keys = value.queries if value.keys is None else value.keys
    size = value.value_size if isinstance(value, KernelCase) else 0
    return rows * max(value.queries * keys, max(value.queries, keys) * max(value.head_size, size))


def _fits(value: Any, hint: Any) -> bool:
    options = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, option) for option in options)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(inner, options[0]) for inner in value)
    if isinstance(hint, range):
        return type(value) is int and value in hint
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if hint is int:
        return type(value) is int and abs(value) <= LARGEST
    return type(value) is hint
