"""Output gradients: for cases whose gradients are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance.cases import ForwardCase, KernelCase

C = TypeVar("C", KernelCase, ForwardCase)


def with_dout(
    cases: SearchStrategy[C],
    *,
    families: tuple[str, ...] = ("normal",),
    layouts: tuple[str, ...] = ("contiguous",),
) -> SearchStrategy[C]:
    """The cases with an output gradient of one of these families and layouts."""
    drawn = st.tuples(cases, st.sampled_from(families), st.sampled_from(layouts))
    return drawn.map(lambda t: replace(t[0], dout=t[1], dout_layout=t[2]))
