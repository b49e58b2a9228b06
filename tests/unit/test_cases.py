"""Cases: JSON both ways, the same arrays from the same case, layouts that keep values, and what masks hide."""

import json

import numpy as np
import pytest
from hypothesis import given, settings

from attn_conformance.borders import NumpyBorder
from attn_conformance.cases import (
    ForwardCase,
    KernelCase,
    Mask,
    ScriptCase,
    Step,
    build,
    build_forward,
    case_from_json,
    layouts,
    masks,
    values,
)
from attn_conformance.cases.events import EVENTS, SCRIPT_EVENTS, applicable, occurring
from attn_conformance.registry import checks
from attn_conformance.scope import Scope
from attn_reference import FEATURES, Claims, lower

EVERYTHING = Claims(features=frozenset(FEATURES))
MODES = ("off", "on", "inference")
SCOPES = {
    "kernel": Scope(EVERYTHING, layouts.LAYOUTS, MODES),
    "module": Scope(EVERYTHING, layouts.LAYOUTS, MODES, ("qkv", "self", "cross", "cached")),
}
EACH = [
    pytest.param(check, kind, id=f"{check.requirement}-{check.function.__name__}-{kind}")
    for found in checks().values()
    for check in found
    for kind in check.kinds
    if not check.lacks(SCOPES[kind])
]


def arrays_of(case):
    if isinstance(case, KernelCase):
        return build(case).arrays()
    if isinstance(case, ForwardCase):
        call = build_forward(case)
        return {**call.arrays(), **call.params}
    return {}


@pytest.mark.parametrize(("check", "kind"), EACH)
def test_every_case_survives_json_and_builds_the_same_arrays_twice(check, kind):
    @settings(max_examples=10)
    @given(check.cases(check.narrowed(SCOPES[kind])))
    def same(case):
        again = case_from_json(json.loads(json.dumps(case.to_json())))
        assert again == case
        assert case.describe()
        first, second = arrays_of(case), arrays_of(again)
        for name, array in first.items():
            assert array.tobytes() == second[name].tobytes()
            assert array.shape == second[name].shape

    same()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "model"}, "not a case: kind is 'model', known are kernel, forward, script, sizes"),
        ({}, "not a case"),
        ({"kind": "kernel", "colour": 1}, "unknown fields"),
        ({"kind": "script", "colour": 1}, "not a script case"),
    ],
)
def test_other_data_are_no_case(data, message):
    with pytest.raises(ValueError, match=message):
        case_from_json(data)


@pytest.mark.parametrize("family", values.FAMILIES)
@pytest.mark.parametrize("dtype", values.STORAGE)
def test_every_family_is_finite_in_every_dtype(family, dtype):
    for seed in range(5):
        call = build(KernelCase(2, 4, 2, 9, 11, 6, 3, dtype=dtype, values=family, seed=seed))
        for array in (call.q, call.k, call.v):
            assert array.dtype == values.STORAGE[dtype]
            assert np.isfinite(array.astype(np.float64)).all()


def logits(family, dtype, seed=0, **sizes):
    sizes = {
        "batch": 2,
        "heads": 2,
        "kv_heads": 2,
        "queries": 8,
        "keys": 40,
        "head_size": 16,
        "value_size": 8,
    } | sizes
    call = build(KernelCase(dtype=dtype, values=family, seed=seed, **sizes))
    q, k = call.q.astype(np.float64), call.k.astype(np.float64)
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])


@pytest.mark.parametrize("dtype", values.STORAGE)
def test_families_reach_the_logits_that_they_promise(dtype):
    limit = min(values.DEEPEST_LOGIT, values.LARGEST_LOGIT[dtype])
    for seed in range(20):
        assert logits("negative", dtype, seed).max() < -50
        deep = logits("deep", dtype, seed)
        assert -1.1 * limit < deep.min() < deep.max() < -1e4
        assert np.abs(logits("huge", dtype, seed)).max() <= 1.02 * values.LARGEST_LOGIT[dtype]
        rising, falling = logits("growing", dtype, seed), logits("falling", dtype, seed)
        assert (np.argmax(rising, -1) >= 20).all()
        assert (np.argmax(falling, -1) < 20).all()
        assert np.ptp(logits("even", dtype, seed)) == 0
    assert max(np.ptp(logits("growing", dtype, seed)) for seed in range(20)) > 100
    assert max(np.abs(logits("huge", dtype, seed)).max() for seed in range(20)) > 0.01 * limit
    # Raw products above float16's range whose scaled value fits it.
    raw = max(np.abs(logits("huge", "float16", seed)).max() * 4 for seed in range(40))
    assert raw > 65504


@pytest.mark.parametrize("structure", masks.STRUCTURES)
@pytest.mark.parametrize("axes", ["ts", "bhts", "b11s", "1h1s", "11ts", "bh1s"])
def test_masks_have_the_shape_of_their_axes_and_no_empty_row_unless_asked(structure, axes):
    for seed, (T, S) in enumerate([(5, 7), (70, 40), (1, 1), (3, 3), (2, 33)]):
        for planes in ("same", "each"):
            mask = Mask(structure, axes=axes, planes=planes)
            array = masks.make(np.random.default_rng(seed), mask, 2, 3, T, S, np.dtype("float32"))
            full = {"b": 2, "h": 3, "t": T, "s": S}
            assert array.shape == ((T, S) if axes == "ts" else tuple(full.get(letter, 1) for letter in axes))
            assert array.any(-1).all()


@pytest.mark.parametrize("structure", ["none", "some-rows-empty"])
def test_empty_rows_stay_where_asked(structure):
    mask = Mask(structure, empty_rows=True, axes="bhts", planes="each")
    array = masks.make(np.random.default_rng(0), mask, 2, 3, 6, 5, np.dtype("float32"))
    assert not array.any(-1).all()


@pytest.mark.parametrize("bias", masks.BIASES)
@pytest.mark.parametrize("dtype", ["q", "float32"])
def test_floating_masks_forbid_by_minus_infinity_and_are_finite_elsewhere(bias, dtype):
    mask = Mask("random", bias, dtype, "bhts", "each")
    array = masks.make(np.random.default_rng(1), mask, 2, 2, 6, 9, np.dtype(np.float16))
    assert array.dtype == (np.float32 if dtype == "float32" else np.float16)
    finite = np.isfinite(array)
    assert finite.any(-1).all()
    assert np.isneginf(array[~finite]).all()
    if bias == "below-10000":
        assert (array[finite] < -1e4).all()
    if bias == "filled":
        lowest = max(-1e9, float(np.finfo(array.dtype).min))
        assert (array[finite] == 0).any()
        assert (array[finite] <= lowest).any()
        assert ((array[finite] == 0) | (array[finite] <= lowest)).all()


def test_first_element_structures_treat_batch_element_0_apart():
    rng = np.random.default_rng(0)
    opened = masks.make(
        rng, Mask("first-all-allowed", axes="bhts", planes="each"), 3, 2, 4, 9, np.dtype(np.float32)
    )
    assert opened[0].all()
    assert not opened[1:].all()
    shortest = masks.make(
        rng, Mask("first-shortest", axes="b11s", planes="each"), 3, 2, 4, 9, np.dtype(np.float32)
    )
    assert shortest[0].sum() == 1


def test_sliced_masks_equal_contiguous_ones():
    for dtype in ("bool", "q"):
        plain, view = (
            masks.make(
                np.random.default_rng(4),
                Mask(dtype=dtype, axes="bhts", layout=layout),
                2,
                2,
                5,
                6,
                np.dtype("f4"),
            )
            for layout in ("contiguous", "sliced")
        )
        np.testing.assert_array_equal(plain, view)
        assert not view.flags.c_contiguous


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_layouts_keep_values_and_the_border_keeps_strides(layout):
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    array[:] = array[:1]
    view = layouts.arrange(array, layout, expandable=True)
    np.testing.assert_array_equal(view, array)
    native = NumpyBorder().asarray(view, "cpu")
    np.testing.assert_array_equal(native, array)
    assert native.strides == view.strides
    assert not np.shares_memory(native, view)
    if layout not in ("contiguous", "expanded"):
        assert not np.array_equal(layouts.misread(view), array)


def test_poison_stands_where_nobody_looks_and_only_there():
    for seed in range(20):
        plain = KernelCase(2, 4, 2, 5, 8, 4, 4, mask=Mask("padding-right", axes="bhts"), seed=seed)
        poisoned = KernelCase(
            2, 4, 2, 5, 8, 4, 4, mask=Mask("padding-right", axes="bhts"), seed=seed, poison="both"
        )
        clean, bad = build(plain), build(poisoned)
        seen = lower(clean.q, clean.k, clean.v, clean.mask).visible.any(2)[:, ::2]
        np.testing.assert_array_equal(clean.k[seen], bad.k[seen])
        np.testing.assert_array_equal(clean.v[seen], bad.v[seen])
        if not seen.all():
            assert (np.abs(bad.v[~seen]) == np.float32(1e30)).all()
            scores = np.abs(bad.q.astype(float).reshape(2, 2, -1, 4) @ bad.k.astype(float).swapaxes(-1, -2))
            assert np.isfinite(scores.astype(np.float32)).all()


def test_every_event_can_occur_and_names_known_claims():
    known = set(FEATURES) | {"float16", "mask", "strides", "any-head-size"}
    for event in (*EVENTS.values(), *SCRIPT_EVENTS.values()):
        assert set(event.needs) <= known
    assert applicable(SCOPES["kernel"]) == set(EVENTS)
    assert applicable(SCOPES["module"]) == set(EVENTS) | set(SCRIPT_EVENTS)
    bare = applicable(Scope(Claims(features=frozenset(), head_sizes=(64,))))
    assert "padding left" not in bare
    assert "transposed inputs" not in bare
    assert "head size 1" not in bare
    assert "T = S" in bare
    assert "T = S" in occurring(KernelCase(1, 1, 1, 3, 3, 2, 2))
    steps = (Step(length=1), Step("rejected", fault="mask"), Step(length=15), Step(length=3))
    assert occurring(ScriptCase(steps=steps)) == {
        "a cache that grows past 16 keys",
        "a first chunk of one token",
        "a later chunk of several tokens",
        "a rejected call between good ones",
    }
