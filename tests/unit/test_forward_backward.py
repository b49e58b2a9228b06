"""The closed form of a module's gradients: against loops and differences, and what has no influence."""

from dataclasses import replace

import numpy as np
import pytest

from attn_reference import loops, lower_forward, solve_forward, solve_forward_backward
from attn_reference.forward import PROJECTIONS

CASES = ("plain", "cross", "causal", "bool", "bias", "bias of heads", "no key")
STEP = 2.0**-20  # as in test_backward


def draw(case, seed=0):
    """Parameters, x, src, mask, is_causal and the gradient of y; two heads of three."""
    rng = np.random.default_rng(seed)
    B, T, S, N = 2, 4, 5 if case == "cross" else 4, 6
    x = rng.standard_normal((B, T, N))
    src = rng.standard_normal((B, S, N)) if case == "cross" else x
    params = {f"{name}.weight": rng.standard_normal((N, N)) for name in PROJECTIONS}
    params |= {f"{name}.bias": rng.standard_normal(N) for name in PROJECTIONS}
    mask = {
        "bool": rng.random((B, 1, T, S)) < 0.6,
        "bias": np.where(rng.random((T, S)) < 0.3, -np.inf, rng.standard_normal((T, S))),
        "bias of heads": rng.standard_normal((1, 2, 1, S)),
        "no key": np.arange(T * S).reshape(T, S) >= S,
    }.get(case)
    return (params, x, src, mask, case == "causal"), rng.standard_normal((B, T, N))


def pose(params, x, src, mask, is_causal):
    return lower_forward(params, x, src, n_head=2, mask=mask, is_causal=is_causal)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_is_the_one_in_loops(case, extended):
    (params, x, src, mask, is_causal), dy = draw(case)
    found = solve_forward_backward(pose(params, x, src, mask, is_causal), dy, extended)
    expected = loops.forward_gradients(params, x, src, dy, 2, mask, is_causal)
    dsrc = expected.pop("src")
    expected |= {"xa": dsrc} if case == "cross" else {"x": expected["x"] + dsrc}
    assert found.gradients.keys() == found.low.keys() == expected.keys()
    for name, due in expected.items():
        assert found.gradients[name].shape == found.low[name].shape == due.shape
        # Sums of up to some hundred products of numbers near 10.
        np.testing.assert_allclose(found.gradients[name], due, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_is_the_limit_of_differences(case):
    (params, x, src, mask, is_causal), dy = draw(case)
    found = solve_forward_backward(pose(params, x, src, mask, is_causal), dy, extended=True).gradients
    rng = np.random.default_rng(1)
    for name, gradient in found.items():
        # Along a direction that touches every element.
        direction = rng.standard_normal(gradient.shape)
        ends = []
        for sign in (1, -1):
            step = sign * STEP * direction
            moved = {
                "x": lambda step: (params, x + step, src if case == "cross" else x + step, mask),
                "xa": lambda step: (params, x, src + step, mask),
                "mask": lambda step: (params, x, src, mask + step),
            }.get(name, lambda step, name=name: (params | {name: params[name] + step}, x, src, mask))
            ends.append(solve_forward(pose(*moved(step), is_causal), extended=True))
        plus, minus = ends
        difference = (dy * ((plus.y - minus.y) + (plus.y_low - minus.y_low))).sum() / (2 * STEP)
        np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-8, atol=1e-8)


def test_x_collects_in_self_attention_what_two_inputs_get_apart():
    (params, x, *_), dy = draw("plain")
    one = pose(params, x, x, None, False)
    together = solve_forward_backward(one, dy).gradients
    apart = solve_forward_backward(replace(one, crossed=True), dy).gradients
    np.testing.assert_allclose(together["x"], apart["x"] + apart["xa"], rtol=1e-13)
    assert pose(params, x, x.copy(), None, False).crossed != one.crossed


@pytest.mark.parametrize("extended", [False, True])
def test_what_no_query_sees_has_no_influence_and_no_gradient(extended):
    (params, x, src, *_), dy = draw("cross")
    mask = np.ones((4, 5), bool)
    mask[1], mask[:, 3:] = False, False
    clean = solve_forward_backward(pose(params, x, src, mask, False), dy, extended).gradients
    src[:, 3], src[:, 4], x[:, 1] = np.nan, 1e30, np.nan
    found = solve_forward_backward(pose(params, x, src, mask, False), dy, extended).gradients
    for name, expected in clean.items():
        np.testing.assert_array_equal(found[name], expected)
    np.testing.assert_array_equal(found["x"][:, 1], 0)
    np.testing.assert_array_equal(found["xa"][:, 3:], 0)
