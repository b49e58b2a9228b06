"""Sizes: counts of batch elements and heads, lengths, head sizes; the simplest first."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance.strategies.weights import weighted

TILES = (8, 16, 32, 64, 128)
"""Tile widths in common use: kernels change their path at multiples of these."""

EDGES = tuple(sorted({n * tile + r for tile in TILES for n in (1, 2) for r in (-1, 0, 1)}))
"""Lengths with residues -1, 0 and 1 of every tile width."""

counts = st.integers(2, 3)
"""Batch elements or heads where their number is not the point; at least two, so that mixing them up shows."""

any_counts = st.integers(1, 9)
"""Batch elements or heads where it is: 5, 6, 7 and 9 divide no power of two."""

lengths = weighted((2, st.integers(2, 12)), (1, st.integers(13, 31)), (1, st.integers(40, 90)))
"""Queries or keys where the length is not the point."""

below_tiles = st.one_of(st.integers(2, 12), st.integers(2, 31))
"""As `lengths`, where what goes wrong at tiles is judged by other requirements."""

short_lengths = st.integers(2, 12)
"""As `lengths`, for checks that call the implementation several times."""

edges = st.sampled_from((1, *EDGES))
"""Lengths around tile edges."""

head_sizes = st.sampled_from((4, 8, 16, 32, 64))
"""Head sizes that every kernel serves."""

odd_head_sizes = st.one_of(
    st.sampled_from((1, 3, 5, 7, 9)), st.sampled_from((2, 6, 10, 12, 20, 33, 40, 65, 80, 96, 128))
)
"""Head sizes that are 1, odd, or not a multiple of 8, and the large ones."""

seeds = st.integers(0, 2**32 - 1)
"""Seeds of the arrays."""


def one(value: int) -> SearchStrategy[int]:
    """A size that is always the same."""
    return st.just(value)
