"""JAX, where it is installed: its convention, its arrays and its gradients, on a function that is right."""

from dataclasses import replace

import numpy as np
import pytest

from attn_conformance.cases import KernelCase, Mask, build, build_upstream
from attn_conformance.conventions import JAX
from attn_conformance.gradients import within
from attn_conformance.judge import Failed, compare
from attn_conformance.targets import subject

pytest.importorskip("jax")

RIGHT = """
import jax.numpy as jnp


def attention(query, key, value, bias=None, mask=None, *, scale=None, is_causal=False):
    q, k, v = (x.swapaxes(1, 2).astype(jnp.float32) for x in (query, key, value))
    k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    T, S, D = q.shape[2], k.shape[2], q.shape[3]
    s = jnp.matmul(q, k.mT, precision="highest") * (D**-0.5 if scale is None else scale)
    assert mask is None or mask.dtype == bool
    assert bias is None or bias.dtype != bool
    if bias is not None:
        s = s + bias.astype(jnp.float32)
    if is_causal:
        mask = jnp.tri(T, S, S - T, dtype=bool)
    if mask is not None:
        s = jnp.where(mask, s, -jnp.inf)
    top = s.max(-1, keepdims=True)
    e = jnp.exp(s - jnp.where(jnp.isneginf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    out = jnp.matmul(e, v, precision="highest") / jnp.where(total == 0, 1, total)
    return out.swapaxes(1, 2).astype(query.dtype)


def without_bias(query, key, value, bias=None, mask=None, *, scale=None, is_causal=False):
    return attention(query, key, value, None, mask, scale=scale, is_causal=is_causal)
"""

PLAIN = KernelCase(2, 2, 2, 3, 5, 4, 4, seed=1)
CASES = {
    "plain": PLAIN,
    "causal": replace(PLAIN, causal=True),
    "boolean mask": replace(PLAIN, mask=Mask("random")),
    "empty rows": replace(PLAIN, mask=Mask("some-rows-empty", empty_rows=True)),
    "added mask": replace(PLAIN, mask=Mask("random", bias="noise", dtype="q")),
    "grouped heads and a scale": replace(PLAIN, kv_heads=1, scale=0.3),
    "bfloat16": replace(PLAIN, dtype="bfloat16", mask=Mask("all", bias="noise", dtype="float32")),
}


@pytest.fixture
def target(tmp_path):
    (tmp_path / "right_in_jax.py").write_text(RIGHT)
    return str(tmp_path / "right_in_jax.py")


def test_the_signature_tells_the_convention_and_the_arrays(target):
    found, refused = subject(f"{target}:attention")
    assert (found.convention, found.border.name, refused) == (JAX, "jax", {})
    assert "float64" not in found.claims.dtypes


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_of_a_right_function_are_within_the_bound(target, name):
    found, _ = subject(f"{target}:attention")
    case = CASES[name]
    call, dout = build(case), build_upstream(case)
    comparison = compare(found.attention(call), found.answer(call))
    assert comparison.ok, comparison.explain()
    of = ("q", "k", "v", "mask") if call.mask is not None and call.mask.dtype != bool else ("q", "k", "v")
    asked = found.answer_gradients(call, dout, of)
    within(found.gradients(found.differentiated(call, of), dout).gradients, asked)


def test_a_mask_that_is_dropped_is_found_out_by_value_and_by_gradient(target):
    found, _ = subject(f"{target}:without_bias")
    case = CASES["added mask"]
    call, dout = build(case), build_upstream(case)
    assert not compare(found.attention(call), found.answer(call)).ok
    for of in ("q", "mask"):
        asked = found.answer_gradients(call, dout, (of,))
        with pytest.raises(Failed, match=f"gradient of {of}|no gradient came back for {of}"):
            within(found.gradients(found.differentiated(call, (of,)), dout).gradients, asked)


def test_a_dtype_that_jax_does_not_have_is_refused_at_the_border(target):
    found, _ = subject(f"{target}:attention")
    with pytest.raises(TypeError, match="jax_enable_x64"):
        found.border.asarray(np.ones(2), "cpu")
