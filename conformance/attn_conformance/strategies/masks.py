"""Masks: named structures, kinds and broadcasts."""

from __future__ import annotations

from itertools import product

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from attn_conformance.cases import Mask
from attn_conformance.scope import Scope

PARTIAL = (
    "padding-right",
    "random",
    "padding-left",
    "padding-middle",
    "band",
    "sliding-window",
    "prefix",
    "documents",
    "block-sparse",
    "single-key",
    "hidden-start",
    "hidden-tile",
)
"""Structures in which every row sees a key and, nearly always, some row misses one."""

APART = ("random", *(structure for structure in PARTIAL if structure != "random"))
"""The same, that one first in which two planes of two keys are hardly ever alike."""

KEYWISE = ("padding-right", "padding-left", "padding-middle", "hidden-start", "hidden-tile")
"""Structures in which all queries of a batch element and head miss the same keys."""

CONTIGUOUS = st.just("contiguous")
"""Other masks are a matter of PURE-5."""

FULL = st.just("bhts")
"""All four axes written out."""

BROADCASTS = ("ts", *("".join(letters) for letters in product("1b", "1h", "1t", "1s") if letters[3] == "s"))
"""(T, S), and every 4-D shape whose last axis is full."""


def kinds(scope: Scope) -> tuple[str, ...]:
    """Dtypes of masks that a subject claims, "bool" and "q", of which any shows what a mask does.

    "float32", which may differ from q's dtype, belongs to MASK-2, and to those who claim no other floating masks.
    """
    floating = "q" if scope.has("float-mask") else "float32"
    claimed = (("bool-mask", "bool"), (f"float{'32' if floating == 'float32' else ''}-mask", floating))
    return tuple(kind for feature, kind in claimed if scope.has(feature))


def floating_kinds(scope: Scope) -> tuple[str, ...]:
    """Dtypes of floating masks that a subject claims: "q", "float32"."""
    claimed = (("float-mask", "q"), ("float32-mask", "float32"))
    return tuple(kind for feature, kind in claimed if scope.has(feature))


@st.composite
def masks(
    draw: DrawFn,
    *,
    dtypes: tuple[str, ...],
    structures: tuple[str, ...] = PARTIAL,
    biases: tuple[str, ...] = ("none",),
    axes: SearchStrategy[str] = FULL,
    planes: str = "same",
    empty_rows: bool = False,
    layout: SearchStrategy[str] = CONTIGUOUS,
) -> Mask:
    """A mask of one of the dtypes; biases concern the floating ones. layout: "contiguous", or "sliced": a view."""
    dtype = draw(st.sampled_from(dtypes), label="mask dtype")
    return Mask(
        structure=draw(st.sampled_from(structures), label="structure"),
        bias="none" if dtype == "bool" else draw(st.sampled_from(biases), label="bias"),
        dtype=dtype,
        axes=draw(axes, label="axes"),
        planes=planes,
        empty_rows=empty_rows,
        layout=draw(layout, label="mask layout"),
    )
