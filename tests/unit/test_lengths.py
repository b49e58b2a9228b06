"""Great lengths: where each key is counted, a single one among 32768 shows in every dtype."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from attn_conformance.cases import KernelCase, Mask, build
from attn_conformance.judge import ask, compare
from attn_conformance.mutants import mutants
from attn_conformance.mutants.plain import product, seen_logits, softmax
from attn_conformance.strategies import weighted
from attn_reference import lower


def counting(keys, dtype="bfloat16", values="counted", **given):
    return KernelCase(1, 1, 1, 16, keys, 64, 64, dtype=dtype, values=values, seed=1, **given)


def compared(case, kernel):
    call = build(case)
    answer = ask(lower(call.q, call.k, call.v, call.mask, call.is_causal), case.dtype, "fused")
    return compare(kernel(call.q, call.k, call.v, call.mask, call.is_causal), answer)


def with_keys(index):
    def kernel(q, k, v, mask, is_causal):
        weights = softmax(seen_logits(q, k[:, :, index], mask, is_causal))
        return product(weights, v[:, :, index], q.dtype)

    return kernel


KEYS = np.arange(32768)
MISTAKES = {
    "lost": np.delete(KEYS, 20001),
    "doubled": np.insert(KEYS, 20001, 20001),
    "taken for its neighbour": np.where(KEYS == 20001, 20002, KEYS),
    "taken for another by a power of two": np.where(KEYS == 20001, 20001 - 16384, KEYS),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_key_of_32768_is_out_of_bound_and_all_of_them_are_within(dtype):
    case = counting(32768, dtype)
    assert compared(case, with_keys(KEYS)).ok
    for mistake, index in MISTAKES.items():
        comparison = compared(case, with_keys(index))
        assert comparison.ratio > 1.5, mistake
        assert 1 <= comparison.wrong <= 2 or dtype != "bfloat16", "where the key belongs, and where it went"


def test_other_values_do_not_show_it_in_bfloat16():
    for values in ("even", "probe", "shifted", "growing"):
        assert compared(counting(32768, values=values), with_keys(MISTAKES["lost"])).ok


def test_causality_shows_at_every_query():
    def one_too_many(q, k, v, mask, is_causal):
        T, S = q.shape[2], k.shape[2]
        seen = np.arange(S) <= np.arange(T)[:, None] + S - T + 1
        return product(softmax(np.where(seen, seen_logits(q, k, mask, False), -np.inf)), v, q.dtype)

    call = build(counting(4097, causal=True))
    right = ask(lower(call.q, call.k, call.v, None, True), "bfloat16", "fused")
    off = (
        np.abs(one_too_many(call.q, call.k, call.v, None, True).astype(np.float64) - right.value)
        > right.limit
    )
    assert off.any(-1)[0, 0].tolist() == [True] * 15 + [False]  # the last query sees all


CASES = {
    "NUM-1": counting(32768),
    "CAUSAL-3": counting(4097, causal=True),
    "MASK-1": counting(8193, mask=Mask("random")),
}
LONG = {
    name: mutant
    for name, mutant in mutants("kernel").items()
    if mutant.target.__module__.endswith(".lengths")
}


@pytest.mark.parametrize("name", LONG)
def test_the_mutant_is_wrong_at_length_alone_and_its_twin_is_right(name):
    mutant = LONG[name]
    case = CASES[mutant.requirement]
    assert not compared(case, mutant.target).ok
    assert compared(case, mutant.twin).ok
    assert compared(replace(case, keys=1000), mutant.target).ok


def test_rare_cases_are_drawn_as_rarely_as_their_weight_says():
    long = []

    @seed(0)
    @settings(max_examples=400, database=None)
    @given(weighted((9, st.integers(0, 2**32)), (1, st.integers(-(2**32), -1))))
    def draw(number):
        long.append(number < 0)

    draw()
    assert 20 < sum(long) < 70
