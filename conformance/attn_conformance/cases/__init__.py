"""Cases: frozen recipes of examples, and the arrays that they become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_conformance.cases.call import Call, build
from attn_conformance.cases.carriers import Carrier, carrier, merge, split
from attn_conformance.cases.case import KernelCase, Mask
from attn_conformance.cases.construction import SizesCase
from attn_conformance.cases.forward import Forward, ForwardCase, build_forward, draw_params
from attn_conformance.cases.script import ScriptCase, Step
from attn_conformance.cases.upstream import Upstream, build_upstream

__all__ = [
    "Call",
    "Carrier",
    "Case",
    "Forward",
    "ForwardCase",
    "KernelCase",
    "Mask",
    "ScriptCase",
    "SizesCase",
    "Step",
    "Upstream",
    "build",
    "build_forward",
    "build_upstream",
    "carrier",
    "case_from_json",
    "draw_params",
    "merge",
    "split",
]

Case = KernelCase | ForwardCase | ScriptCase | SizesCase
"""Whatever a check may draw."""

_KINDS: dict[str, Any] = {
    "kernel": KernelCase,
    "forward": ForwardCase,
    "script": ScriptCase,
    "sizes": SizesCase,
}


def case_from_json(data: Mapping[str, Any]) -> Case:
    """The case that its `to_json` wrote; ValueError for anything else."""
    kind = _KINDS.get(data.get("kind", ""))
    if kind is None:
        raise ValueError(f"not a case: kind is {data.get('kind')!r}, known are {', '.join(_KINDS)}")
    try:
        case: Case = kind.from_json(data)
    except TypeError as error:
        raise ValueError(f"not a {data['kind']} case: {error}") from error
    return case
