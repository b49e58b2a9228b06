"""The two forms of the reference agree with each other and with cases that have closed forms."""

import math
import time

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_reference import Claims, attention, bound, limit, lower, lse_bound, solve
from attn_reference.loops import attention as attention_in_loops

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
MASKS = ("none", "bool 2-D", "bool 4-D", "bool padding", "float 2-D", "float 4-D", "float -inf", "all hidden")


def allowed(problem, solution):
    """How far two float64 evaluations of one problem may lie apart: each may err by the limit."""
    return 2 * limit(solution.o, bound(problem, solution, "float64", "precise"), "float64")


def arrays(rng, B=2, H=2, Hkv=None, T=3, S=4, D=5, Dv=None, dtype=np.float64):
    shapes = (B, H, T, D), (B, Hkv or H, S, D), (B, Hkv or H, S, Dv or D)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def make_mask(rng, kind, B, H, T, S):
    axes = tuple(n if rng.random() < 0.6 else 1 for n in (B, H, T))
    match kind:
        case "bool 2-D":
            return rng.random((T, S)) < 0.6
        case "bool 4-D":
            return rng.random((*axes, S)) < 0.6
        case "bool padding":
            return np.arange(S) < rng.integers(1, S + 1, (B, 1, 1, 1))
        case "float 2-D":
            return rng.standard_normal((T, S))
        case "float 4-D":
            return (100 * rng.standard_normal((*axes, S))).astype(np.float32)
        case "float -inf":
            return np.where(rng.random((*axes, S)) < 0.5, -np.inf, rng.standard_normal((*axes, S)))
        case "all hidden":
            return np.zeros((T, S), bool)
    return None


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(MASKS),
    is_causal=st.booleans(),
    dtype=st.sampled_from(sorted(DTYPES)),
    sizes=st.tuples(*[st.integers(1, n) for n in (2, 2, 3, 5, 6, 4, 3)]),
    magnitude=st.sampled_from([1.0, 0.0, 30.0]),
    scale=st.sampled_from([None, 0.3, -1.0]),
)
def test_loops_and_matrices_agree(seed, kind, is_causal, dtype, sizes, magnitude, scale):
    B, Hkv, g, T, S, D, Dv = sizes
    rng = np.random.default_rng(seed)
    q, k, v = arrays(rng, B, Hkv * g, Hkv, T, S, D, Dv)
    q, k, v = (x.astype(DTYPES[dtype]) for x in (magnitude * q, k, v))
    mask = make_mask(rng, kind, B, Hkv * g, T, S)
    problem = lower(q, k, v, mask, is_causal, scale)
    solution = solve(problem)
    difference = np.abs(attention_in_loops(q, k, v, mask, is_causal, scale) - solution.o)
    assert (difference <= allowed(problem, solution)).all()


def test_one_key_gives_its_value():
    q, k, v = arrays(np.random.default_rng(0), S=1)
    np.testing.assert_array_equal(attention(q, k, v), np.broadcast_to(v, q.shape))


def test_two_keys_give_the_logistic_function():
    q, k, v = arrays(np.random.default_rng(0), S=2)
    problem = lower(q, k, v)
    solution = solve(problem)
    s = (q @ k.swapaxes(-1, -2)) / math.sqrt(q.shape[-1])
    weight = 1 / (1 + np.exp(s[..., :1] - s[..., 1:]))
    expected = (1 - weight) * v[:, :, :1] + weight * v[:, :, 1:]
    assert (np.abs(solution.o - expected) <= allowed(problem, solution)).all()


def test_zero_queries_give_the_mean_of_the_visible_values():
    rng = np.random.default_rng(0)
    q, k, v = arrays(rng, T=1, S=9)
    seen = np.array([1, 1, 0, 1, 0, 0, 1, 1, 0], bool)
    problem = lower(0 * q, k, v, seen[None])
    solution = solve(problem)
    expected = v[:, :, seen].mean(2, keepdims=True)
    assert (np.abs(solution.o - expected) <= allowed(problem, solution)).all()


def test_one_visible_key_gives_its_value_wherever_it_is():
    q, k, v = arrays(np.random.default_rng(0), T=6, S=6)
    np.testing.assert_array_equal(attention(q, k, v, np.eye(6, dtype=bool)[::-1]), v[:, :, ::-1])


def test_query_heads_read_key_heads_in_consecutive_groups():
    q, k, v = arrays(np.random.default_rng(0), H=6, Hkv=2, S=1)
    np.testing.assert_array_equal(attention(q, k, v)[:, :, 0], v[:, [0, 0, 0, 1, 1, 1], 0])


@pytest.mark.parametrize(("T", "S"), [(4, 4), (3, 5), (5, 3), (1, 4)])
def test_the_last_query_sees_every_key_and_each_earlier_one_a_key_less(T, S):
    q, k, v = arrays(np.random.default_rng(0), T=T, S=S)
    triangle = np.tri(T, S, S - T, dtype=bool)
    solution = solve(lower(q, k, v, is_causal=True))
    np.testing.assert_array_equal(solution.p > 0, np.broadcast_to(triangle, solution.p.shape))
    np.testing.assert_array_equal(solution.o, attention(q, k, v, triangle))


def test_minus_infinity_forbids_as_false_does():
    rng = np.random.default_rng(0)
    q, k, v = arrays(rng)
    seen = rng.random((2, 1, 3, 4)) < 0.5
    added = np.where(seen, 0.0, -np.inf)
    np.testing.assert_array_equal(attention(q, k, v, added), attention(q, k, v, seen))


def test_masks_keep_their_small_axes_and_the_arrays_are_copied():
    q, k, v = arrays(np.random.default_rng(0))
    problem = lower(q, k, v)
    assert problem.visible.shape == problem.bias.shape == (1, 1, 1, 1)
    assert problem.scale == 1 / math.sqrt(5)
    assert lower(q, k, v, np.ones((3, 4), bool), scale=2).visible.shape == (1, 1, 3, 4)
    assert lower(q, k, v, np.zeros((2, 1, 1, 4))).bias.shape == (2, 1, 1, 4)
    assert not any(
        np.shares_memory(a, b) for a, b in zip((q, k, v), (problem.q, problem.k, problem.v), strict=True)
    )


def test_a_mask_and_causality_both_hide():
    q, k, v = arrays(np.random.default_rng(0), T=4, S=4)
    seen = np.ones((4, 4), bool)
    seen[:, 0] = False
    expected = np.tril(seen)
    np.testing.assert_array_equal(lower(q, k, v, seen, is_causal=True).visible[0, 0], expected)


def test_rows_without_a_visible_key_are_zero_and_marked():
    q, k, v = arrays(np.random.default_rng(0))
    seen = np.ones((3, 4), bool)
    seen[1] = False
    solution = solve(lower(q, k, v, seen))
    np.testing.assert_array_equal(solution.o[:, :, 1], 0)
    np.testing.assert_array_equal(solution.lse[:, :, 1], -np.inf)
    np.testing.assert_array_equal(solution.m[:, :, 1], 0)
    np.testing.assert_array_equal(solution.empty[..., 0], np.broadcast_to([False, True, False], (2, 2, 3)))
    np.testing.assert_array_equal(solution.o_low, 0)


def test_the_log_sum_exp_is_that_of_the_visible_scores():
    q, k, v = arrays(np.random.default_rng(0), T=4, S=4)
    problem = lower(q, k, v, is_causal=True)
    solution = solve(problem)
    spread = lse_bound(problem, solution, "float64", "precise")
    for i in range(4):
        expected = np.log(np.exp(solution.s[:, :, i, : i + 1]).sum(-1))
        assert (np.abs(solution.lse[:, :, i] - expected) <= 2 * spread[:, :, i]).all()


def test_chosen_rows_are_the_rows_of_the_whole():
    rng = np.random.default_rng(0)
    q, k, v = arrays(rng, H=4, Hkv=2, T=9, S=7)
    for mask in (None, rng.random((9, 7)) < 0.5, rng.random((2, 1, 1, 7)) < 0.5):
        problem = lower(q, k, v, mask)
        whole, part = solve(problem), solve(problem, rows=np.array([8, 0, 3]))
        rows = whole.take_rows([8, 0, 3])
        assert (np.abs(rows.o - part.o) <= allowed(problem, whole)[:, :, [8, 0, 3]]).all()
        np.testing.assert_array_equal(rows.empty, part.empty)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("causal", [False, True])
def test_what_hidden_keys_hold_changes_nothing(poison, causal):
    q, k, v = arrays(np.random.default_rng(0), H=4, Hkv=2, T=6, S=6)
    seen = np.arange(6)[None] < np.full((6, 1), 3)
    if causal:
        seen = np.tril(np.ones((6, 6), bool))
    clean = attention(q, k, v, seen)
    k[:, :, 3:], v[:, :, 3:] = poison, poison
    upto = 3 if causal else 6  # under the triangle the later queries see the poison
    np.testing.assert_array_equal(attention(q, k, v, seen)[:, :, :upto], clean[:, :, :upto])
    np.testing.assert_array_equal(
        attention_in_loops(q[:, :, :upto], k, v, seen[:upto]),
        attention_in_loops(q[:, :, :upto], np.nan_to_num(k), np.nan_to_num(v), seen[:upto]),
    )


@pytest.mark.parametrize("form", [attention, attention_in_loops])
def test_nan_reaches_exactly_what_depends_on_it(form):
    B, H, T, S, D = 2, 2, 4, 4, 3
    for name, due in {
        "q": np.s_[1, 0, 2],  # one row
        "k": np.s_[1, 0, 2:],  # the rows that see key 2
        "v": np.s_[1, 0, 2:, 0],  # and of the channel alone
    }.items():
        q, k, v = arrays(np.random.default_rng(0), B, H, None, T, S, D)
        {"q": q, "k": k, "v": v}[name][1, 0, 2, 0] = np.nan
        expected = np.zeros((B, H, T, D), bool)
        expected[due] = True
        np.testing.assert_array_equal(np.isnan(form(q, k, v, np.tri(T, S, dtype=bool))), expected)


@pytest.mark.parametrize(
    "sizes", [{"T": 0}, {"S": 0}, {"B": 0}, {"B": 0, "T": 0, "S": 0}, {"H": 4, "Hkv": 2, "T": 0}]
)
@pytest.mark.parametrize("causal", [False, True])
def test_sizes_of_zero(sizes, causal):
    q, k, v = arrays(np.random.default_rng(0), **sizes)
    for form in (attention, attention_in_loops):
        result = form(q, k, v, is_causal=causal)
        assert result.shape == q.shape
        np.testing.assert_array_equal(result, 0)


def test_no_head_size_is_a_mean():
    rng = np.random.default_rng(0)
    q, k, v = np.zeros((1, 1, 2, 0)), np.zeros((1, 1, 3, 0)), rng.standard_normal((1, 1, 3, 4))
    problem = lower(q, k, v)
    solution = solve(problem)
    assert (np.abs(solution.o - v.mean(2, keepdims=True)) <= allowed(problem, solution)).all()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_kernel_rounds_once_to_the_dtype_of_its_inputs(dtype):
    q, k, v = arrays(np.random.default_rng(0), dtype=DTYPES[dtype])
    result = attention(q, k, v)
    assert result.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(result, solve(lower(q, k, v)).o.astype(DTYPES[dtype]))
    np.testing.assert_array_equal(result, attention(q, k, v))


def test_the_kernel_says_what_it_does_and_refuses_the_rest():
    claims = attention.claims
    assert isinstance(claims, Claims)
    assert claims.arithmetic == "precise"
    assert claims.features >= {"gqa", "scale", "dv", "validates", "zero-sizes", "run-determinism"}
    assert "gradients" not in claims.features
    q, k, v = arrays(np.random.default_rng(0))
    with pytest.raises(ValueError, match="mask"):
        attention(q, k, v, np.ones((3, 5), bool))


def test_a_long_context_costs_little():
    q, k, v = arrays(np.random.default_rng(0), B=1, T=4, S=32768, D=64)
    problem = lower(q, k, v, is_causal=True)
    seconds = []
    for _ in range(3):  # the least of three, on a machine that may be busy; 0.1 when written
        begin = time.thread_time()
        bound(problem, solve(problem), "bfloat16", "eager")
        seconds.append(time.thread_time() - begin)
    assert min(seconds) < 2
