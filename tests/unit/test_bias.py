"""Bias: planted defects that no element shows are found and named with their size; right kernels have none."""

from dataclasses import replace

import numpy as np
import pytest

from attn_conformance.bias import fits
from attn_conformance.cases import KernelCase, Mask, build
from attn_conformance.cases.values import STORAGE
from attn_conformance.checks.numerics import (
    errors_have_no_direction,
    errors_of_gradients_have_no_direction,
    gradients_where_maxima_repeat,
    where_maxima_repeat,
)
from attn_conformance.controls import controls
from attn_conformance.judge import Failed, NotAsked, ask
from attn_conformance.mutants import mutants
from attn_conformance.mutants.differentiable import Differentiable
from attn_conformance.mutants.plain import masked, product, row_peak, scores, softmax
from attn_conformance.mutants.precision import cut
from attn_conformance.targets import subject
from attn_reference import Claims, lower

HIDDEN = Mask("random", axes="bhts", planes="each")


def session(dtype="bfloat16", values="normal", seed=0, **given):
    return KernelCase(32, 2, 2, 24, 40, 12, 12, dtype=dtype, values=values, seed=seed, **given)


def fitted(kernel, case):
    call = build(case)
    answer = ask(lower(call.q, call.k, call.v, call.mask), case.dtype, "fused")
    out = kernel(call.q, call.k, call.v, call.mask)
    return {fit.name: fit for fit in fits(out, answer)}


def exact(q, k, v, mask, factor=1.0):
    return product(softmax(masked(factor * scores(q, k), mask)), v, np.float32)


def gained(q, k, v, mask):
    return (exact(q, k, v, mask) * np.float32(1.001)).astype(q.dtype)


def scaled(q, k, v, mask):
    return exact(q, k, v, mask, 1.001).astype(q.dtype)


def truncated(q, k, v, mask):
    return cut(exact(q, k, v, mask), q.dtype)


def leaking(q, k, v, mask):
    logits = masked(scores(q, k), mask)
    filled = np.where(np.isneginf(logits), row_peak(logits) - 10, logits)
    return product(softmax(filled), v, q.dtype)


@pytest.mark.parametrize(
    ("kernel", "name", "value", "sentence"),
    [
        (gained, "gain", 0.001, "results are too large by 0.1"),
        (scaled, "scale", 0.001, "logits are scaled by 1.00"),
        (truncated, "rounding", -0.5, "results are rounded towards zero: -0."),
        # The row's peak weighs about 0.2, and e^-10 of that is 1e-5.
        (leaking, "leak", 1e-5, "every hidden key has a weight of"),
    ],
)
def test_a_planted_defect_is_named_with_its_size(kernel, name, value, sentence):
    found = fitted(kernel, session(mask=HIDDEN))
    best = max(found.values(), key=lambda fit: fit.explained)
    assert (best.name, best.biased) == (name, True)
    assert best.value == pytest.approx(value, rel=0.5)
    if name != "leak":
        assert abs(best.value - value) < 3 * best.error
    assert best.sentence.startswith(sentence)


@pytest.mark.parametrize(
    "name", ["rounded-weights", "eager", "short-polynomial-exp", "tf32", "float64-inside"]
)
@pytest.mark.parametrize("dtype", STORAGE)
def test_right_kernels_have_no_bias(name, dtype):
    control = controls()[name]
    if dtype not in control.claims.dtypes:
        return
    case = session(dtype, "large", mask=HIDDEN)
    call = build(case)
    answer = ask(lower(call.q, call.k, call.v, call.mask), dtype, control.claims.arithmetic)
    out = control.target(call.q, call.k, call.v, call.mask)
    assert [fit.name for fit in fits(out, answer) if fit.biased] == []


def test_results_on_one_side_of_a_rounding_boundary_are_no_bias():
    call = build(session())
    # One in 40 keys less than half of them hold the next number of bfloat16 but one: means round up to that between.
    v = np.ones_like(call.v)
    v[:, :, ::2] = 1 + 2.0**-6
    v[:, :, 0] = 1
    right = exact(0 * call.q, call.k, v, None).astype(call.q.dtype)
    answer = ask(lower(0 * call.q, call.k, v), "bfloat16", "fused")
    assert np.all(right > answer.value)
    assert {fit.name: fit.value for fit in fits(right, answer)} == {"gain": 0, "rounding": 0}


def test_a_leak_is_looked_for_where_keys_are_hidden():
    def right(q, k, v, mask):
        return exact(q, k, v, mask).astype(q.dtype)

    assert "leak" not in fitted(right, session())
    assert "leak" in fitted(right, session(mask=HIDDEN))


NAMED = {name: mutant for name, mutant in mutants("kernel").items() if mutant.requirement == "NUM-5"}


@pytest.mark.parametrize("name", NAMED)
def test_the_mutants_of_num_5_are_biased_and_their_twins_are_not(name):
    gradients = "gradients" in NAMED[name].claims.features
    function = errors_of_gradients_have_no_direction if gradients else errors_have_no_direction
    case = session(values="large" if "scale" in name or gradients else "shifted", dout="normal")
    with pytest.raises(Failed, match="have a direction"):
        function(subject(f"mutant:{name}")[0], case)
    assert function(subject(f"twin:{name}")[0], case) is True


class Leaning(Differentiable):
    """Its gradient of q is 0.2 % too large."""

    def dq(self, x, ds):
        return 1.002 * super().dq(x, ds)


def differentiable(kernel, dtype="bfloat16"):
    claims = Claims(dtypes=(dtype,), features=frozenset({"gradients"}))
    return replace(subject("control:precise-backward")[0], function=kernel, claims=claims)


def judged_gradients(kernel, dtype="bfloat16"):
    return errors_of_gradients_have_no_direction(differentiable(kernel, dtype), session(dtype, dout="normal"))


def test_a_gradient_that_leans_is_named_with_how_much():
    with pytest.raises(Failed, match="in the gradient of q, results are too large by"):
        judged_gradients(Leaning())


@pytest.mark.parametrize("dtype", STORAGE)
def test_right_gradients_do_not_lean(dtype):
    assert judged_gradients(Differentiable(), dtype) is True


def test_wrong_gradients_are_left_to_other_requirements():
    with pytest.raises(NotAsked):
        judged_gradients(mutants()["row-term-missing"].target)


def test_what_single_elements_show_is_left_to_other_requirements():
    with pytest.raises(NotAsked):
        errors_have_no_direction(subject("mutant:no-scale")[0], session())


def repeated(name, dtype, seeds=range(4)):
    found, _ = subject(name)
    told = [where_maxima_repeat(found, session(dtype, "repeated", seed)) for seed in seeds]
    assert all(text.startswith(f"{dtype}: ") for text in told)
    return [text.removeprefix(f"{dtype}: ") for text in told]


def test_equal_weights_that_are_rounded_lean_to_one_side_and_others_do_not():
    assert repeated("control:precise", "bfloat16") == ["no direction"] * 4
    leaning = repeated("control:rounded-weights", "bfloat16")
    assert all(text.startswith(("the result too large by", "the result away from zero")) for text in leaning)


class LeaningValues(Differentiable):
    """Its gradient of v is 0.2 % too large."""

    def dv(self, x, do):
        return 1.002 * super().dv(x, do)


def test_gradients_that_lean_are_told():
    case = session("bfloat16", "repeated", dout="ones")
    assert gradients_where_maxima_repeat(differentiable(Differentiable()), case) == "bfloat16: no direction"
    told = gradients_where_maxima_repeat(differentiable(LeaningValues()), case)
    assert told.startswith("bfloat16: dv too large by 0.")
