"""Events: situations that a run must reach; one in which some never occurred has not looked everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from attn_conformance.cases import Case
from attn_conformance.cases.case import KernelCase, Mask
from attn_conformance.cases.script import ScriptCase
from attn_conformance.cases.values import LARGEST_LOGIT
from attn_conformance.scope import Scope
from attn_reference.claims import MASK_FEATURES

Predicate = Callable[[KernelCase], bool]


@dataclass(frozen=True)
class Event:
    """A situation: how it is recognised in a case, and the claims without which it cannot occur.

    needs: features that must all be claimed; "mask" stands for any kind of mask, "strides" for a framework that
    has them, "any-head-size" for a subject that does not limit them; a dtype or a window stands for itself.
    """

    occurs: Predicate
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScriptEvent:
    """A situation on caches; all need "cache"."""

    occurs: Callable[[ScriptCase], bool]
    needs: tuple[str, ...] = ()


def _masked(predicate: Callable[[KernelCase, Mask], bool]) -> Predicate:
    return lambda case: case.mask is not None and predicate(case, case.mask)


def _residue(length: Callable[[KernelCase], int], tile: int, residue: int) -> Predicate:
    return lambda case: length(case) >= tile - 1 and length(case) % tile == residue % tile


def _heads(count: int) -> Predicate:
    return lambda case: case.heads == count


def _batch(count: int) -> Predicate:
    return lambda case: case.batch == count


def _structure(*names: str) -> Predicate:
    return _masked(lambda case, mask: mask.structure in names)


def _layout(name: str) -> Predicate:
    return lambda case: case.layout == name


EVENTS: dict[str, Event] = {
    **{f"{n} heads": Event(_heads(n)) for n in range(1, 10)},
    **{f"batch of {n}": Event(_batch(n)) for n in range(1, 10)},
    "as many heads as batch elements": Event(lambda case: case.batch == case.heads > 1),
    "T = S": Event(lambda case: case.queries == case.keys > 1),
    "T != S": Event(lambda case: case.queries != case.keys, ("cross",)),
    "one query, one batch element": Event(lambda case: case.batch == case.queries == 1),
    "one masked query": Event(_masked(lambda case, mask: case.queries == 1), ("mask",)),
    "head size 1": Event(lambda case: case.head_size == 1, ("any-head-size",)),
    "odd head size": Event(lambda case: case.head_size % 2 == 1 < case.head_size, ("any-head-size",)),
    "head size not a multiple of 8": Event(lambda case: case.head_size % 8 != 0, ("any-head-size",)),
    **{
        f"{axis} {residue:+d} mod {tile}": Event(_residue(length, tile, residue))
        for axis, length in (
            ("queries", lambda case: case.queries),
            ("keys", lambda case: case.keys),
        )
        for tile in (8, 16, 32, 64, 128)
        for residue in (-1, 0, 1)
    },
    "more than 64 queries under a mask of one row": Event(
        _masked(lambda case, mask: case.queries > 64 and len(mask.axes) == 4 and mask.axes[2] == "1"),
        ("mask",),
    ),
    "the first 32 keys forbidden": Event(
        _masked(lambda case, mask: mask.structure == "hidden-start" and case.keys > 32), ("mask",)
    ),
    "padding left": Event(_structure("padding-left"), ("mask",)),
    "padding right": Event(_structure("padding-right"), ("mask",)),
    "padding in the middle": Event(_structure("padding-middle"), ("mask",)),
    "a band": Event(_structure("band", "sliding-window"), ("mask",)),
    "a wholly hidden tile": Event(
        _masked(lambda case, mask: mask.structure == "hidden-tile" and case.keys > 32), ("mask",)
    ),
    "a single visible key": Event(_structure("single-key"), ("mask",)),
    "nothing visible at all": Event(
        _masked(lambda case, mask: mask.structure == "none" and mask.empty_rows), ("mask",)
    ),
    "batch element 0 allows everything": Event(_structure("first-all-allowed"), ("mask",)),
    "batch element 0 is the shortest": Event(_structure("first-shortest"), ("mask",)),
    "planes that differ by head": Event(
        _masked(lambda case, mask: mask.planes == "each" and mask.axes[:2] == "bh" and case.heads > 1),
        ("mask",),
    ),
    "a mask that is a view of a larger one": Event(
        _masked(lambda case, mask: mask.layout == "sliced"), ("mask",)
    ),
    "a float mask wholly below -1e4": Event(
        _masked(lambda case, mask: mask.bias == "below-10000"), ("float-mask",)
    ),
    "a float mask that hides padding by a finite number": Event(
        _masked(lambda case, mask: mask.bias == "filled"), ("float-mask",)
    ),
    "a forbidden logit more than 100 above the visible ones": Event(
        lambda case: case.poison in ("keys", "both") and case.mask is not None, ("mask",)
    ),
    "all visible logits below -1e4, some keys forbidden": Event(
        lambda case: case.values == "deep" and case.mask is not None, ("mask",)
    ),
    "even weights over 512 keys or more": Event(
        lambda case: case.values == "even" and case.keys >= 512, ("cross",)
    ),
    "even weights over 2048 keys or more in float16": Event(
        lambda case: case.values == "even" and case.keys >= 2048 and case.dtype == "float16",
        ("cross", "float16"),
    ),
    "a sum of values above 65504": Event(lambda case: case.values == "heavy-values" and case.keys >= 3),
    "a maximum that rises across tiles": Event(lambda case: case.values == "growing" and case.keys > 64),
    "a maximum that falls across tiles": Event(lambda case: case.values == "falling" and case.keys > 64),
    "logits near the limit of the dtype": Event(
        lambda case: case.values == "huge" and LARGEST_LOGIT[case.dtype] > 0
    ),
    "one batch element with far larger logits": Event(lambda case: case.values == "uneven-batch"),
    "one head with far larger logits": Event(lambda case: case.values == "uneven-heads"),
    "probe values": Event(lambda case: case.values == "probe"),
    "more than 32767 elements of work": Event(
        lambda case: case.batch * case.heads * case.queries * case.head_size > 32767
    ),
    "transposed inputs": Event(_layout("transposed"), ("strides",)),
    "sliced inputs": Event(_layout("sliced"), ("strides",)),
    "every other element of the last axis": Event(_layout("inner"), ("strides",)),
    "expanded inputs": Event(_layout("expanded"), ("strides",)),
    "16384 keys or more": Event(lambda case: case.keys >= 16384 and case.queries <= 8, ("cross",)),
    "a chain of calls": Event(lambda case: bool(case.before)),
}


def _appended(case: ScriptCase) -> list[int]:
    """Tokens of each self-attention step on the first cache, in order."""
    return [step.length for step in case.steps if step.act == "self" and step.cache == 0]


def _crosses(length: int) -> Callable[[ScriptCase], bool]:
    def crosses(case: ScriptCase) -> bool:
        held = [sum(_appended(case)[:n]) for n in range(1, len(_appended(case)) + 1)]
        return any(before < length <= after for before, after in pairwise(held))

    return crosses


def _acts(case: ScriptCase) -> list[str]:
    return [step.act for step in case.steps]


SCRIPT_EVENTS: dict[str, ScriptEvent] = {
    **{f"a cache that grows past {length} keys": ScriptEvent(_crosses(length)) for length in (16, 32, 64)},
    "a first chunk of one token": ScriptEvent(lambda case: _appended(case)[:1] == [1]),
    "a later chunk of one token": ScriptEvent(lambda case: 1 in _appended(case)[1:]),
    "a later chunk of several tokens": ScriptEvent(lambda case: max(_appended(case)[1:], default=0) > 1),
    "two caches in turn on one module": ScriptEvent(
        lambda case: len({step.cache for step in case.steps if step.act in ("self", "cross")}) > 1
    ),
    "two modules on one cache": ScriptEvent(
        lambda case: len({step.module for step in case.steps if step.cache == 0}) > 1, ("shared-cache",)
    ),
    "a rejected call between good ones": ScriptEvent(lambda case: "rejected" in _acts(case)[1:-1]),
    "a cross entry against xa of other values": ScriptEvent(
        lambda case: _acts(case).count("cross") > 1, ("cross",)
    ),
    "entries reordered by the caller": ScriptEvent(lambda case: "reorder" in _acts(case), ("cache-edits",)),
    "entries truncated by the caller": ScriptEvent(lambda case: "truncate" in _acts(case), ("cache-edits",)),
    "a fork of a cache": ScriptEvent(lambda case: "fork" in _acts(case), ("cache-edits",)),
}


def occurring(case: Case) -> set[str]:
    """Names of the events of a case."""
    if isinstance(case, KernelCase):
        return {name for name, event in EVENTS.items() if event.occurs(case)}
    if isinstance(case, ScriptCase):
        return {name for name, event in SCRIPT_EVENTS.items() if event.occurs(case)}
    return set()


def applicable(scope: Scope) -> set[str]:
    """Names of the events that a subject can meet."""
    claims = scope.claims
    offered = {*claims.features, *claims.dtypes, *scope.windows}
    if claims.features & MASK_FEATURES:
        offered.add("mask")
    if len(scope.layouts) > 1:
        offered.add("strides")
    if not claims.head_sizes:
        offered.add("any-head-size")
    names = {name for name, event in EVENTS.items() if offered.issuperset(event.needs)}
    if "cache" in offered and "cached" in offered:
        names |= {name for name, event in SCRIPT_EVENTS.items() if offered.issuperset(event.needs)}
    return names
