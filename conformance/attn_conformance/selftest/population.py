"""The cases in which alarms and defects are counted: values, masks and sizes of every kind, mixed evenly."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from attn_conformance.cases import KernelCase, Mask
from attn_conformance.independent import BACKEND
from attn_conformance.scope import Scope
from attn_conformance.strategies import CAUSAL, NO_MASK, NOT_CAUSAL, kernel_cases, masks, sizes, with_dout
from attn_reference import Claims

FAMILIES = (
    "normal",
    "heavy",
    "large",
    "tiny",
    "cancelling",
    "dominant",
    "shifted",
    "even",
    "tied",
    "integers",
    "growing",
)
"""Value families; poison at hidden keys is the twelfth."""

POISONS = ("none", "none", "values", "keys", "both")
"""Poison needs a key that is hidden from all queries, as one case in seven has: it is in one of twelve."""

DOUTS = (*["normal"] * 10, "large", "tiny")
"""Families of output gradients."""

KEYS = tuple(round(2 ** (n / 8)) for n in range(67))
"""Numbers of keys, 1 to 304, evenly by their logarithm."""

QUERIES = tuple(n for n in KEYS if n <= 256)
"""Numbers of queries likewise, 1 to 256."""

LONG_ONE_IN = 40
"""One case in so many has one of LONG_KEYS."""

LONG_KEYS = (1024, 1025, 1536, 2047)
"""Lengths at which kernels split the keys, and low-precision sums lose digits."""

HEAD_SIZES = (1, 2, 3, 5, 8, 16, 32, 64, 80, 128)
"""Some powers of 4, for which the scale is exact, and others."""


def _masks(structure: str, *biases: str, empty_rows: bool = False) -> SearchStrategy[Mask | None]:
    dtypes = ("q",) if biases else ("bool",)
    common = {"structures": (structure,), "axes": st.just("ts"), "empty_rows": empty_rows}
    return masks(dtypes=dtypes, biases=biases or ("none",), **common)  # type: ignore[arg-type]


WHO_SEES: tuple[tuple[SearchStrategy[Mask | None], SearchStrategy[bool]], ...] = (
    (NO_MASK, NOT_CAUSAL),
    (NO_MASK, NOT_CAUSAL),
    (NO_MASK, CAUSAL),
    (NO_MASK, CAUSAL),
    (_masks("random"), NOT_CAUSAL),
    (_masks("padding-right"), NOT_CAUSAL),
    (_masks("all", "alibi", "noise"), NOT_CAUSAL),
    (_masks("triangle", "alibi", "noise", empty_rows=True), NOT_CAUSAL),
    (_masks("some-rows-empty", empty_rows=True), NOT_CAUSAL),
)
"""Masks and causality: none of either (twice), causal (twice), keys hidden at random, padding, and three more."""


@st.composite
def population(draw: DrawFn, dtypes: tuple[str, ...]) -> KernelCase:
    """Single heads of every kind, half of them with T = S, and a few with 1024 keys or more."""
    mask, causal = draw(st.sampled_from(WHO_SEES))
    if draw(st.sampled_from(range(LONG_ONE_IN))) == LONG_ONE_IN - 1:
        return draw(_single_heads(dtypes, mask, causal, (8, 16, 64), LONG_KEYS))
    return draw(_single_heads(dtypes, mask, causal, QUERIES, KEYS, square=draw(st.booleans())))


@st.composite
def small_population(draw: DrawFn, dtypes: tuple[str, ...]) -> KernelCase:
    """The same with sizes at which a case takes less than a millisecond: up to 12 queries, 64 keys, 16 features."""
    mask, causal = draw(st.sampled_from(WHO_SEES))
    queries, keys, head_sizes = (
        tuple(n for n in choices if n <= most)
        for choices, most in ((QUERIES, 12), (KEYS, 64), (HEAD_SIZES, 16))
    )
    return draw(_single_heads(dtypes, mask, causal, queries, keys, head_sizes))


def _single_heads(
    dtypes: tuple[str, ...],
    mask: SearchStrategy[Mask | None],
    causal: SearchStrategy[bool],
    queries: tuple[int, ...],
    keys: tuple[int, ...],
    head_sizes: tuple[int, ...] = HEAD_SIZES,
    *,
    square: bool = False,
) -> SearchStrategy[KernelCase]:
    cases = kernel_cases(
        Scope(Claims(dtypes=dtypes)),
        batch=sizes.one(1),
        heads=sizes.one(1),
        queries=st.sampled_from(queries),
        keys=st.sampled_from(keys),
        square=square,
        head_size=st.sampled_from(head_sizes),
        families=FAMILIES,
        mask=mask,
        causal=causal,
        poison=st.sampled_from(POISONS),
    )
    return with_dout(cases, families=DOUTS)


def drawn(strategy: SearchStrategy[KernelCase], count: int, seed_value: int) -> tuple[KernelCase, ...]:
    """Distinct cases, at most `count`, the same ones for the same seed."""
    found: list[KernelCase] = []

    @settings(
        max_examples=count,
        backend=BACKEND,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=(
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ),
        verbosity=Verbosity.quiet,
    )
    @seed(seed_value)
    @given(strategy)
    def draw(case: KernelCase) -> None:
        found.append(case)

    draw()
    return tuple(dict.fromkeys(found))
