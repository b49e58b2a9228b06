"""How good the verdicts are: how near correct kernels come to the bound, how small failures get, how soon."""

from dataclasses import replace

import numpy as np
import pytest

from attn_conformance.cases import Call, KernelCase, build
from attn_conformance.cases.values import FAMILIES, STORAGE
from attn_conformance.judge import compare
from attn_conformance.mutants import mutants
from attn_conformance.runner import run
from attn_conformance.targets import Narrowing, subject


def strict_order(q, k, v, mask=None, is_causal=False):
    """The naive kernel with every sum taken term by term, in float32 or float64."""
    work = np.float64 if q.dtype == np.float64 else np.float32
    dtype, (q, k, v) = q.dtype, (x.astype(work) for x in (q, k, v))
    s = np.zeros((*q.shape[:3], k.shape[2]), work)
    for d in range(q.shape[3]):
        s += q[..., d : d + 1] * k[..., None, :, d]
    s *= work(q.shape[3] ** -0.5)
    e = np.exp(s - s.max(-1, keepdims=True))
    total, o = np.zeros_like(e[..., :1]), np.zeros((*q.shape[:3], v.shape[3]), work)
    for j in range(k.shape[2]):
        total += e[..., j : j + 1]
        o += e[..., j : j + 1] * v[:, :, j : j + 1]
    return (o / total).astype(dtype)


def equal_terms(dtype, seed):
    """Inner products of equal terms, whose roundings add up in strict order, decide between v = 1 and v = -1."""
    rng = np.random.default_rng(seed)
    q = np.ones(128) * rng.uniform(0.1, 3, (1, 4, 64, 1))
    k = np.ones(128) * rng.uniform(-1, 1, (1, 4, 2, 1))
    v = np.array([1.0, -1.0]).reshape(1, 1, 2, 1).repeat(4, 1)
    return Call(*(x.astype(STORAGE[dtype]) for x in (q, k, v)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_bound_is_tight_a_naive_kernel_comes_within_a_third_of_it(dtype):
    found, _ = subject("control:naive")
    found = replace(found, function=strict_order)
    comparisons = [
        compare(found.attention(c), found.answer(c)) for c in (equal_terms(dtype, n) for n in range(5))
    ]
    assert all(comparison.ok for comparison in comparisons)
    assert max(comparison.ratio for comparison in comparisons) >= 0.3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["naive", "online-16", "online-64-rounded-weights"])
def test_in_low_precision_ordinary_cases_come_within_a_third_of_the_bound(dtype, name):
    found, _ = subject(f"control:{name}")
    largest = 0.0
    for family in FAMILIES:
        for seed, keys in enumerate((7, 33, 128)):
            call = build(KernelCase(2, 2, 2, 6, keys, 16, 8, dtype=dtype, values=family, seed=seed))
            comparison = compare(found.attention(call), found.answer(call))
            assert comparison.ok
            largest = max(largest, comparison.ratio)
    assert largest >= 0.3


def test_ties_beyond_all_digits_accuse_nobody():
    # Equal scores of 1e28 whose order rounding decides: the bound once looked at the reference's choice alone.
    case = KernelCase(3, 2, 2, 70, 10, 8, 8, dtype="float64", values="huge", seed=27)
    for name in ("naive", "pairwise-sums", "reversed-keys"):
        found, _ = subject(f"control:{name}")
        assert compare(found.attention(build(case)), found.answer(build(case))).ok


@pytest.mark.parametrize(
    ("mutant", "sizes"),
    [
        ("inverted-mask", {"batch": 2, "heads": 2, "queries": 2, "keys": 2}),
        ("top-left-triangle", {"batch": 2, "heads": 2, "queries": 2, "keys": 3}),
        ("one-key-into-the-future", {"batch": 2, "heads": 2, "queries": 2, "keys": 2}),
        ("softmax-over-queries", {"batch": 2, "heads": 2, "queries": 2, "keys": 2}),
        ("nan-for-empty-rows", {"batch": 2, "heads": 2, "queries": 2, "keys": 2}),
        ("grouped-heads-tiled", {"batch": 2, "heads": 4, "queries": 2, "keys": 2}),
        ("last-key-dropped-past-a-tile", {"batch": 2, "heads": 2, "queries": 2}),
    ],
)
def test_counterexamples_are_near_minimal(mutant, sizes):
    requirement = mutants()[mutant].requirement
    found, _ = subject(f"mutant:{mutant}")
    case = run(found, only=(requirement,)).rows[requirement].counterexample
    assert all(case[name] <= most for name, most in sizes.items()), case


def test_smoke_finds_gross_defects_in_few_examples():
    for name in ("inverted-mask", "no-scale", "softmax-over-queries", "top-left-triangle", "strides-ignored"):
        requirement = mutants()[name].requirement
        found, _ = subject(f"mutant:{name}", Narrowing(dtypes=("float32",)))
        row = run(found, effort="smoke", only=(requirement,)).rows[requirement]
        assert row.status == "failed"
        assert row.examples <= 5
