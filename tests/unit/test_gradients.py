"""Gradients: how they are pulled back, what is allowed for them, and what the checks say of wrong ones."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from attn_conformance.borders import BORDERS, NumpyBorder, TorchBorder, candidates
from attn_conformance.cases import (
    ForwardCase,
    KernelCase,
    Mask,
    build,
    build_forward,
    build_upstream,
    upstream,
)
from attn_conformance.cases.values import STORAGE
from attn_conformance.conventions import ADAPTER, FLASH_ATTN, KERNEL
from attn_conformance.gradients import ask_gradients, within
from attn_conformance.judge import Failed
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.mutants.differentiable import Differentiable, TwiceDifferentiable
from attn_conformance.mutants.modules.differentiable import DifferentiableModule
from attn_conformance.runner import run
from attn_conformance.second_gradients import ask_second_gradients
from attn_conformance.standing import BACK
from attn_conformance.targets import subject
from attn_reference import Claims, half_ulp, limit, lower, solve_backward

RNG = np.random.default_rng(0)
DIFFERENTIATING = [name for name in ("torch", "jax") if importlib.util.find_spec(name)]


RIGHT = Differentiable()


def kernel(function=RIGHT, convention=KERNEL):
    return KernelSubject("a target", function, convention, TorchBorder(), Claims())


def case(**changes):
    return replace(KernelCase(2, 2, 2, 3, 4, 5, 5, seed=1), **changes)


# --- borders


@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_a_border_pulls_gradients_back(name):
    border = BORDERS[name]()
    x, y = (RNG.standard_normal((2, 3)).astype(np.float32) for _ in range(2))
    inputs = {n: border.asarray(a, "cpu") for n, a in {"x": x, "y": y, "unused": y}.items()}
    out, pull = border.vjp(lambda named: named["x"] * named["y"], inputs)
    found = pull(border.asarray(np.full((2, 3), 2, np.float32), "cpu"))
    np.testing.assert_allclose(border.asnumpy(out), x * y, rtol=1e-6)
    np.testing.assert_allclose(border.asnumpy(found["x"]), 2 * y, rtol=1e-6)
    assert found["unused"] is None or not border.asnumpy(found["unused"]).any()


@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_a_pullback_can_be_differentiated(name):
    border = BORDERS[name]()
    arrays = {n: border.asarray(RNG.standard_normal(3).astype(np.float32), "cpu") for n in ("x", "dout", "w")}

    def first(named):
        return border.vjp(lambda n: n["x"] ** 3, {"x": named["x"]})[1](named["dout"])

    _, pull = border.vjp(first, {"x": arrays["x"], "dout": arrays["dout"]})
    found = pull({"x": arrays["w"]})
    x, dout, w = (border.asnumpy(arrays[n]) for n in ("x", "dout", "w"))
    np.testing.assert_allclose(border.asnumpy(found["x"]), 6 * x * dout * w, rtol=1e-5)
    np.testing.assert_allclose(border.asnumpy(found["dout"]), 3 * x * x * w, rtol=1e-5)


def test_a_leaf_lies_where_its_array_lay():
    native = TorchBorder().asarray(np.zeros((4, 6), np.float32)[:, ::2], "cpu")
    leaves = {}
    TorchBorder().vjp(lambda named: leaves.update(named) or named["x"] * 1, {"x": native})
    assert leaves["x"].stride() == native.stride() == (6, 2)
    assert leaves["x"].data_ptr() == native.data_ptr()
    assert not native.requires_grad


def test_a_node_that_refuses_is_heard_though_it_leads_nowhere():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dout):
            return dout

    border = TorchBorder()
    x = torch.ones(2)

    def first(named):
        return border.vjp(lambda n: Once.apply(n["x"]), {"x": named["x"]})[1](named["dout"])

    _, pull = border.vjp(first, {"x": x, "dout": torch.ones(2)})
    with pytest.raises(RuntimeError, match="once_differentiable"):
        pull({"x": torch.ones(2)})


def test_numpy_has_no_gradients_and_does_not_claim_them():
    with pytest.raises(TypeError, match="no gradients"):
        NumpyBorder().vjp(lambda named: named["x"], {"x": np.ones(2)})
    found, _ = subject("numpy-reference-kernel")
    row = run(found, effort="smoke", only=("GRAD-2",)).rows["GRAD-2"]
    assert (row.status, row.message) == ("skipped", "not claimed: gradients")


# --- output gradients


@pytest.mark.parametrize("layout", upstream.LAYOUTS)
@pytest.mark.parametrize("family", upstream.FAMILIES)
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
def test_an_output_gradient_has_the_numbers_and_strides_of_its_names(layout, family, shape):
    values = upstream.draw(np.random.default_rng(1), shape, family, layout, "float16")
    view = upstream.arrange(values, layout)
    assert values.dtype == np.float16
    assert np.isfinite(values.astype(float)).all()
    assert np.array_equal(view, values)
    assert view.flags.c_contiguous == (layout == "contiguous")
    assert (0 in view.strides) == (layout in upstream.EXPANDED)


@pytest.mark.parametrize("layout", upstream.LAYOUTS)
def test_modules_get_output_gradients_laid_out_with_merged_heads(layout):
    made = build_upstream(case(window="qkv", dout_layout=layout))
    found, _ = subject("twin:row-term-missing-in-a-module")
    posed = found.differentiated(build(case(window="qkv")), ("q",))
    native = posed.outward(made)
    assert native.shape == posed.shape == (2, 3, 10)
    assert (0 in native.strides) == (layout in upstream.EXPANDED)


# --- what is allowed


def test_a_gradient_that_is_stored_in_another_dtype_is_rounded_twice():
    problem, dout = lower(*(RNG.standard_normal((1, 1, 3, 4)) for _ in range(3))), np.ones((1, 1, 3, 4))
    same, other = (
        ask_gradients(problem, dout, {"q": np.empty((1, 1, 3, 4), STORAGE[kind])}, "bfloat16", "fused")[
            "q"
        ].answer
        for kind in ("bfloat16", "float32")
    )
    spread = same.limit / 1.1 - half_ulp(np.abs(same.value) + 0 * same.limit, "bfloat16")
    assert (spread >= 0).all()
    assert (other.limit >= limit(same.value, 0 * spread, "bfloat16") / 1.1).all()
    assert np.allclose(other.limit, same.limit, rtol=0.01)


def test_a_wrong_gradient_is_told_by_its_name_and_place():
    found, call, dout = kernel(), build(case()), build_upstream(case())
    asked = found.answer_gradients(call, dout, ("k", "v"))
    got = found.gradients(found.differentiated(call, ("q", "k", "v")), dout).gradients
    within(got, asked)
    got["k"][1, 0, 2, 3] += 1
    with pytest.raises(
        Failed, match=r"gradient of k: 1 of 80 elements out of bound\nfirst \[1, 0, 2, 3\] exp"
    ) as told:
        within(got, asked)
    assert (told.value.evidence.of, told.value.evidence.dout.shape) == ("k", (2, 2, 3, 5))


def test_none_stands_for_zeros():
    found, call = kernel(), build(case(dout="zeros"))
    asked = found.answer_gradients(call, build_upstream(case(dout="zeros")), ("q",))
    within({"q": None}, asked)
    asked = found.answer_gradients(call, build_upstream(case()), ("q",))
    with pytest.raises(Failed, match="no gradient came back for q, which has influence"):
        within({"q": None}, asked)


def test_gradients_of_modules_are_those_of_x_xa_and_every_parameter():
    found, _ = subject("twin:row-term-missing-in-a-module")
    posed_case = ForwardCase(2, 2, 4, 3, 5, mask=Mask(dtype="q", bias="noise", structure="all"), seed=1)
    call, dout = build_forward(posed_case), build_upstream(posed_case)
    handle = found.build(call.params, 2, False)
    posed = found.differentiated_forward(call, handle, ["x", "xa", "mask", *call.params])
    assert set(posed.inputs) == {"x", "xa", "mask", *call.params} - {"key.bias"}
    asked = found.answer_forward_gradients(call, dout, posed.inputs)
    within(found.gradients(posed, dout).gradients, asked)


def test_implementations_may_give_gradients_of_their_own():
    found, _ = subject("nn-mha")
    call = build_forward(ForwardCase(2, 2, 4, 3, seed=1))
    posed = found.differentiated_forward(call, found.build(call.params, 2, False), ["x", *call.params])
    asked = found.answer_forward_gradients(
        call, build_upstream(ForwardCase(2, 2, 4, 3, seed=1)), posed.inputs
    )
    assert {"x", "query.weight", "value.bias", "out.bias"} <= set(asked)
    within(found.gradients(posed, build_upstream(ForwardCase(2, 2, 4, 3, seed=1))).gradients, asked)


def test_heads_may_come_after_tokens():
    def flash_attn_func(q, k, v, causal=False, softmax_scale=None):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return Differentiable()(q, k, v, None, causal).transpose(1, 2)

    found = kernel(flash_attn_func, FLASH_ATTN)
    for layout in ("contiguous", "transposed", "one token"):
        drawn = case(causal=True, keys=3, dout_layout=layout)
        call, dout = build(drawn), build_upstream(drawn)
        pulled = found.gradients(found.differentiated(call, ("q", "k", "v")), dout)
        within(pulled.gradients, found.answer_gradients(call, dout, ("q", "k", "v")))


# --- gradients of gradients


SECOND = {
    "plain": {},
    "masked": {"mask": Mask(structure="random", axes="bhts", planes="each")},
    "causal": {"causal": True, "keys": 3},
    "grouped": {"heads": 4},
}


def directions_for(call):
    return {
        n: np.random.default_rng(2).standard_normal(a.shape) for n, a in call.arrays().items() if n != "mask"
    }


@pytest.mark.parametrize("name", SECOND)
def test_second_gradients_are_those_of_central_differences(name):
    drawn = case(dtype="float64", **SECOND[name])
    call, dout = build(drawn), build_upstream(drawn).exact
    problem, along = lower(call.q, call.k, call.v, call.mask, call.is_causal), directions_for(build(drawn))
    answers = ask_second_gradients(problem, dout, along, "float64", "fused")

    def moved(step):
        other = replace(problem, **{n: getattr(problem, n) + step * along[n] for n in "qkv"})
        found = solve_backward(other, dout, extended=True)
        o = {"dout": (found.solution.o, found.solution.o_low)}
        return o | {n: (found.gradients[n], found.low[n]) for n in "qkv"}

    # The fourth-order difference: its own error is below 1e-9 at this step, and that of roundings 1e-13 / step.
    h = 2.0**-8
    near, far = ((moved(n * h), moved(-n * h)) for n in (1, 2))
    for of, answer in answers.items():
        one, two = ((p[of][0] - m[of][0]) + (p[of][1] - m[of][1]) for p, m in (near, far))
        np.testing.assert_allclose(answer.value, (8 * one - two) / (12 * h), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SECOND)
def test_autograd_stays_within_a_fraction_of_what_is_allowed_for_second_gradients(name, dtype):
    drawn = case(dtype=dtype, **SECOND[name])
    call, dout = build(drawn), build_upstream(drawn)
    along = {n: a.astype(STORAGE[dtype]) for n, a in directions_for(call).items()}
    found = kernel(TwiceDifferentiable())
    got = found.second_gradients(call, dout, along)
    exact = {n: a.astype(np.float64) for n, a in along.items()}
    problem = lower(call.q, call.k, call.v, call.mask, call.is_causal)
    for of, answer in ask_second_gradients(problem, dout.exact, exact, dtype, "fused").items():
        assert (np.abs(got[of] - answer.value) <= answer.limit).all()
        assert np.abs(answer.value).max() > 100 * answer.limit.max()


# --- what the checks say


def failing(function, requirement, **options):
    return run(kernel(function), only=(requirement,), **options).rows[requirement].message


def test_gradients_in_another_dtype_are_told_as_such():
    class Widening(DifferentiableModule):
        def gradients(self, handle, call, dout):
            return {"x": dout.double()}

    claims = replace(Widening.claims, dtypes=("float32",))
    found = ModuleSubject("a target", Widening(), ADAPTER, TorchBorder(), claims)
    row = run(found, only=("GRAD-1",), effort="smoke").rows["GRAD-1"]
    assert row.message == "the gradient of x has dtype float64, its input has float32"


def test_a_backward_pass_that_raises_is_told_as_such():
    def attention(q, k, v, mask=None, is_causal=False):
        out = Differentiable()(q, k, v, mask, is_causal)
        if out.requires_grad:
            out.register_hook(lambda dout: dout.nothing)
        return out

    assert failing(attention, "GRAD-2").startswith("raised AttributeError: ")


def standing_behind(found, judge):
    """The rows of gradients that stand back when the row that judges the results is there, and the statuses alone."""
    alone = run(found, only=("GRAD",)).rows
    beside = run(found, only=(judge, "GRAD")).rows
    assert beside[judge].status == "failed"
    back = {name for name, row in beside.items() if row.message == BACK.format(judge)}
    return back, {name: row.status for name, row in alone.items() if name.startswith("GRAD")}


def test_gradients_of_wrong_results_never_pass_and_stand_behind_what_judges_the_results():
    def without_masks(q, k, v, mask=None, is_causal=False):
        return TwiceDifferentiable()(q, k, v, None, is_causal)

    back, alone = standing_behind(kernel(without_masks), "MASK-1")
    wrong = {"GRAD-2", "GRAD-3", "GRAD-4", "GRAD-6"}
    assert back == wrong
    assert {name for name, status in alone.items() if status == "failed"} == wrong
    assert alone["GRAD-5"] == "passed"


def test_gradients_of_calls_that_raise_stand_behind_what_judges_the_calls():
    def no_masks(q, k, v, mask=None, is_causal=False):
        if mask is not None:
            raise RuntimeError("no masks here")
        return RIGHT(q, k, v, None, is_causal)

    back, alone = standing_behind(kernel(no_masks), "MASK-1")
    assert {"GRAD-2", "GRAD-3", "GRAD-4"} <= back
    assert {alone[name] for name in back} == {"failed"}


def test_a_call_that_raises_only_where_gradients_are_asked_is_a_failure_of_gradients():
    def refusing(q, k, v, mask=None, is_causal=False):
        if q.requires_grad:
            raise RuntimeError("no gradients here")
        return RIGHT(q, k, v, mask, is_causal)

    rows = run(kernel(refusing), only=("EQ-3", "GRAD-2"), effort="smoke").rows
    assert rows["EQ-3"].status == "passed"
    assert rows["GRAD-2"].message.startswith("raised RuntimeError: no gradients here")


class ForwardWithoutMasks(DifferentiableModule):
    """qkv_attention is right, and forward ignores its mask."""

    def forward(self, module, x, xa=None, mask=None):
        return super().forward(module, x, xa)


def test_a_row_does_not_pass_by_one_of_its_checks_where_the_other_meets_wrong_results():
    claims = replace(DifferentiableModule.claims, dtypes=("float32",))
    found = ModuleSubject("a target", ForwardWithoutMasks(), ADAPTER, TorchBorder(), claims)
    rows = run(found, only=("GRAD-1", "GRAD-3", "GRAD-4"), effort="smoke").rows
    assert {row.status for row in rows.values() if row.requirement in ("GRAD-1", "GRAD-3", "GRAD-4")} == {
        "failed"
    }


def test_a_mask_of_a_coarser_dtype_may_sum_its_gradient_in_it():
    problem = lower(*(RNG.standard_normal((2, 2, 9, 4)) for _ in range(3)), np.zeros((1, 9), np.float32))
    dout = RNG.standard_normal((2, 2, 9, 4))
    asked = ask_gradients(problem, dout, {"mask": np.zeros((1, 9), np.float32)}, "float64", "fused")["mask"]
    ds = solve_backward(problem, dout).ds
    coarse = ds.astype(np.float32).sum((0, 1, 2), dtype=np.float32)[None]
    within({"mask": coarse}, {"mask": asked})
    assert (asked.answer.limit < 1e-4).all()


def of_a_float32_mask(q, k, v, dout, shape):
    """Beside float64: what is allowed for the gradient of a mask of this shape, and that of each score."""
    problem = lower(q, k, v, np.zeros(shape, np.float32))
    asked = ask_gradients(problem, dout, {"mask": np.zeros(shape, np.float32)}, "float64", "fused")["mask"]
    return asked, solve_backward(problem, dout).ds


def in_order(numbers):
    total = np.float32(0)
    for number in numbers.astype(np.float32):
        total = total + number
    return total


def test_gradients_of_a_coarser_mask_that_are_all_equal_may_be_summed_in_order():
    q, k = np.ones((1, 1, 600, 1)), np.array([[[[1.0], [-1.0]]]])
    errors = []
    for factor in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5):
        asked, ds = of_a_float32_mask(q, k, factor * k, np.ones((1, 1, 600, 1)), (1, 1, 1, 2))
        got = np.array([in_order(ds[0, 0, :, j]) for j in range(2)]).reshape(1, 1, 1, 2)
        within({"mask": got}, {"mask": asked})
        errors.append(np.abs(got / asked.value - 1).max() / 2.0**-24)
    assert max(errors) > 1 + 600**0.5  # of a random walk


def test_a_gradient_of_a_coarser_mask_that_is_no_sum_is_rounded_once():
    q, k, v, dout = (RNG.standard_normal((1, 1, n, 4)) for n in (5, 7, 7, 5))
    asked, ds = of_a_float32_mask(q, k, v, dout, (1, 1, 5, 7))
    rounded = ds.astype(np.float32)
    within({"mask": rounded}, {"mask": asked})
    with pytest.raises(Failed, match="gradient of mask"):
        within({"mask": np.nextafter(rounded, np.float32(np.inf))}, {"mask": asked})
    # Two are rounded each, and so is their sum.
    asked, ds = of_a_float32_mask(q[:, :, :2], k, v, dout[:, :, :2], (1, 1, 1, 7))
    size = np.abs(ds).sum(2, keepdims=True)
    allowed = 1.1 * (2.0**-24 * size + half_ulp(np.abs(asked.value) + 2.0**-24 * size, "float32"))
    assert (asked.answer.limit <= 1.001 * allowed).all()
    within({"mask": ds.astype(np.float32).sum(2, keepdims=True)}, {"mask": asked})


def test_a_function_may_say_whose_arrays_it_takes():
    assert candidates(RIGHT) == ["torch"]
    assert candidates(lambda q, k, v: q)[0] in ("torch", "numpy")
