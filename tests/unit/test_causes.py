import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from attn_conformance import expect
from attn_conformance.cases import Forward, ForwardCase, KernelCase, Mask, build, build_forward
from attn_conformance.causes import CATALOGUE, likely_cause
from attn_conformance.causes.cause import LARGEST, Situation
from attn_conformance.cli import main
from attn_conformance.judge import Evidence, Failed, ask, ask_forward
from attn_conformance.mutants import mutants
from attn_conformance.runner import run
from attn_conformance.targets import Narrowing, subject
from attn_reference import lower, lower_forward, solve, solve_forward

BY_NAME = {cause.name: cause for cause in CATALOGUE}

NAMED = {
    # kernels
    "inverted-mask": "mask-inverted",
    "mask-fill-result-dropped": "mask-ignored",
    "float-mask-as-boolean": "float-mask-as-boolean",
    "finite-mask-values-ignored": "mask-values-ignored",
    "mask-added-before-scale": "mask-before-scale",
    "mask-multiplied": "mask-multiplied",
    "mask-after-softmax": "mask-after-softmax",
    "first-head-mask-for-all": "mask-of-head-0",
    "first-element-mask-for-all": "mask-of-batch-element-0",
    "key-mask-along-queries-when-square": "mask-transposed",
    "float-mask-rounded-to-half": "mask-in-float16",
    "forbidden-filled-with-minus-1e4": "hidden-by-filling-10000",
    "mask-added-as-minus-100": "hidden-by-adding-100",
    "mean-of-values-for-empty-rows": "empty-rows-mean",
    "nan-for-empty-rows": "empty-rows-nan",
    "causal-ignored": "causal-off",
    "one-key-into-the-future": "causal-one-key-too-many",
    "causal-misses-own-key": "causal-own-key-hidden",
    "causal-only-when-square": "causal-off-where-T-differs-from-S",
    "top-left-triangle": "causal-top-left",
    "always-causal": "causal-unasked",
    "no-scale": "scale-missing",
    "scale-from-model-width": "scale-of-model",
    "scale-one-over-head-size": "scale-twice",
    "heads-merged-without-transpose": "merged-as-T-H",
    "value-heads-split-the-other-way": "values-split-as-D-H",
    "grouped-heads-tiled": "groups-interleaved",
    "softmax-over-queries": "softmax-over-queries",
    "peak-over-forbidden-keys": "peak-of-hidden-keys",
    "peak-never-below-zero": "peak-of-at-least-0",
    "float64-computed-in-float32": "in-float32",
    "nan-becomes-zero": "nan-hidden",
    "last-of-odd-batch-reads-its-neighbour": "neighbouring-keys",
    "first-key-counted-twice": "first-key-twice",
    "last-key-dropped-past-a-tile": "last-key-dropped",
    # modules: forward with random weights, windows, and caches
    "heads-merged-without-transpose-in-forward": "forward-merged-as-H-T",
    "packed-projections-in-another-order": "keys-and-values",
    "xa-of-the-shape-of-x-ignored": "xa-ignored",
    "weights-not-transposed": "out-weight-transposed",
    "value-bias-not-wired-in": "value-bias-missing",
    "inverted-mask-in-forward": "mask-inverted",
    "empty-rows-zero-behind-the-out-projection": "empty-rows-no-bias",
    "causal-only-without-a-prefix": "causal-off-where-T-differs-from-S",
    "chunk-placed-at-the-start": "causal-top-left",
    "triangle-hides-the-cached-prefix": "causal-prefix-hidden",
    "no-scale-on-the-cached-branch": "scale-missing",
    "value-read-from-the-key-entry": "keys-for-values",
    "xa-projected-in-every-call": "cross-entry-unused",
    "cross-keys-kept-on-the-module": "another-cache",
}

UNKNOWN = (
    "causal-by-blocks-of-four",  # at T = 2 the same as no causality at all
    "first-row-of-mask-for-a-block-of-four",
    "causal-only-in-even-heads",
    "causal-forgets-beyond-16-keys",
    "scale-off-by-one-percent",
    "distance-bias-left-on",
    "dropout-always-on",
    "only-the-last-16-keys-kept",
)
"""Mutants whose pattern no cause describes."""


def row_of(mutant: str):
    found, refused = subject(f"mutant:{mutant}")
    requirement = mutants()[mutant].requirement
    row = run(found, only=(requirement,), refused=refused, explain=True).rows[requirement]
    assert row.status == "failed"
    return row


@pytest.mark.parametrize("mutant", NAMED)
def test_the_cause_of_a_mutant_is_named(mutant):
    assert row_of(mutant).cause == BY_NAME[NAMED[mutant]].sentence


@pytest.mark.parametrize("mutant", UNKNOWN)
def test_no_cause_is_named_where_none_is_known(mutant):
    assert row_of(mutant).cause is None


def test_causes_are_named_in_most_bug_classes():
    assert len({mutants()[name].bug_class for name in NAMED}) >= 20


def test_names_and_sentences_are_unique():
    assert len(BY_NAME) == len(CATALOGUE) == len({cause.sentence for cause in CATALOGUE})
    assert len(CATALOGUE) >= 25


# --- outputs made here


def answered(call, dtype="float32"):
    return ask(lower(call.q, call.k, call.v, call.mask, call.is_causal, call.scale), dtype, "fused")


def cause_of(case, got, answer):
    cause = likely_cause((case, Failed("wrong", None, Evidence(got, answer))))
    return None if cause is None else cause.name


MASKED = KernelCase(2, 4, 4, 3, 5, 6, 6, seed=1, mask=Mask("random", axes="bhts", planes="each"))
PLAIN = KernelCase(2, 4, 4, 5, 5, 6, 6, seed=1)


@pytest.mark.parametrize(
    ("case", "wrong", "name"),
    [
        (PLAIN, lambda c, p, s: np.exp(s.s - s.m) @ c.v, "unnormalised"),
        (PLAIN, lambda c, p, s: 0 * c.q, "zeros"),
        (PLAIN, lambda c, p, s: s.o[:1] + 0 * s.o, "element-0-for-all"),
        (PLAIN, lambda c, p, s: s.o[:, :1] + 0 * s.o, "head-0-for-all"),
        (PLAIN, lambda c, p, s: solve(lower(c.k, c.q, c.v)).o, "queries-and-keys"),
        (PLAIN, lambda c, p, s: s.o.astype(np.float16), "in-float16"),
        (PLAIN, lambda c, p, s: (np.exp(s.s) / (1 + np.exp(s.s).sum(-1, keepdims=True))) @ c.v,
         "one-more-in-the-sum"),
        (MASKED, lambda c, p, s: solve(lower(c.q, c.k, c.v, c.mask.astype(float))).o, "boolean-mask-added"),
    ],
)  # fmt: skip
def test_a_wrong_output_is_recognised(case, wrong, name):
    call = build(case)
    answer = answered(call)
    got = np.asarray(wrong(call, answer.problem, solve(answer.problem)), np.float32)
    assert cause_of(case, got, answer) == name


def test_heads_that_attend_to_heads_are_recognised():
    case = PLAIN
    call = build(case)
    turned = [x.swapaxes(1, 2) for x in (call.q, call.k, call.v)]
    got = solve(lower(*turned)).o.swapaxes(1, 2).astype(np.float32)
    assert cause_of(case, got, answered(call)) == "across-heads"


def forward_call(**options) -> Forward:
    return build_forward(ForwardCase(2, 2, 3, 4, seed=3, **options))


@pytest.mark.parametrize(
    ("keys", "values", "name"),
    [("x", "xa", "keys-of-x"), ("xa", "x", "values-of-x"), ("x", "x", "xa-ignored")],
)
def test_what_keys_and_values_are_projected_from_is_recognised(keys, values, name):
    call = forward_call(keys=4)
    x = {"x": call.x, "xa": call.xa}
    parts = {
        name: solve_forward(lower_forward(call.params, call.x, src, n_head=2)).core for name, src in x.items()
    }
    core = lower(parts["x"].q, parts[keys].k, parts[values].v)
    o = solve(core).o.swapaxes(1, 2).reshape(call.x.shape)
    y = o @ call.params["out.weight"].T.astype(float) + call.params["out.bias"]
    answer = ask_forward(_without_key_bias(call), "fused")
    assert cause_of(ForwardCase(), y[:, None].astype(np.float32), answer) == name


X_ALONE = """
from attn_reference import MultiHeadAttention

class Module(MultiHeadAttention):
    def forward(self, x, xa=None, mask=None, kv_cache=None):
        return super().forward(x, None, mask, kv_cache)
"""

BATCH_SECOND = """
from attn_reference import MultiHeadAttention

class Module(MultiHeadAttention):
    def forward(self, x, xa=None, mask=None, kv_cache=None):
        x, xa = (a if a is None else a.swapaxes(0, 1).copy() for a in (x, xa))
        return super().forward(x, xa, mask, kv_cache).swapaxes(0, 1).copy()
"""

FILLED = """
import numpy as np
from attn_reference import MultiHeadAttention

class Module(MultiHeadAttention):
    def qkv_attention(self, q, k, v, mask=None):
        if mask is None or mask.dtype != bool:
            return super().qkv_attention(q, k, v, mask)
        (B, T, N), H = q.shape, self.n_head
        q64, k64, v64 = (a.reshape(B, -1, H, N // H).swapaxes(1, 2).astype(float) for a in (q, k, v))
        s = np.where(mask, q64 @ k64.swapaxes(2, 3) / np.sqrt(N // H), -1e4)
        p = np.exp(s - s.max(-1, keepdims=True))
        o = p / p.sum(-1, keepdims=True) @ v64
        return o.swapaxes(1, 2).reshape(q.shape).astype(q.dtype)
"""

TOP_LEFT_IN_FLOAT32 = """
import numpy as np
from attn_reference import MultiHeadAttention

class Module(MultiHeadAttention):
    def qkv_attention(self, q, k, v, mask=None):
        k, v = (a[:, : q.shape[1]] if self.causal else a for a in (k, v))
        return super().qkv_attention(*(a.astype(np.float32) for a in (q, k, v)), mask).astype(q.dtype)
"""


@pytest.mark.parametrize(
    ("text", "requirement", "dtypes", "name"),
    [
        (X_ALONE, "MASK-1", ("float32",), "xa-ignored"),
        (X_ALONE, "CACHE-4", ("float32",), "xa-ignored"),
        (BATCH_SECOND, "EQ-1", ("float32",), "batch-second"),
        (BATCH_SECOND, "CAUSAL-2", ("float32",), "batch-second"),
        (BATCH_SECOND, "CACHE-3", ("float32",), "batch-second"),
        (FILLED, "MASK-6", ("float32",), "hidden-by-filling-10000"),
        # float64 within float32's bound: what else is wrong shows all the same.
        (TOP_LEFT_IN_FLOAT32, "CAUSAL-3", ("float64",), "causal-top-left"),
    ],
)
def test_an_ordinary_mistake_of_a_module_is_named(tmp_path, text, requirement, dtypes, name):
    (tmp_path / "module.py").write_text(text)
    found, refused = subject(f"{tmp_path}/module.py:Module", Narrowing(dtypes=dtypes))
    row = run(found, only=(requirement,), refused=refused, explain=True).rows[requirement]
    assert row.cause == BY_NAME[name].sentence


def _without_key_bias(call: Forward) -> Forward:
    params = {name: array for name, array in call.params.items() if name != "key.bias"}
    return Forward(call.x, call.xa, params, call.n_head, call.mask, call.is_causal)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("case", [
    PLAIN, MASKED, KernelCase(2, 2, 1, 1, 1, 1, 1), KernelCase(1, 3, 3, 2, 9, 9, 4, causal=True, seed=2),
    KernelCase(2, 2, 2, 3, 3, 2, 2, seed=4, mask=Mask("some-rows-empty", "noise", "q", "bhts", "each", True)),
], ids=str)  # fmt: skip
def test_nothing_is_said_of_a_right_output(case, dtype):
    case = replace(case, dtype=dtype)
    call = build(case)
    answer = answered(call, dtype)
    got = answer.value.astype(call.q.dtype)
    situation = Situation(got, answer, "causal" if case.causal else "mask" if case.mask else "nothing")
    assert [cause.name for cause in CATALOGUE if cause.proved(situation)] == []
    assert cause_of(case, got, answer) is None


@pytest.mark.parametrize("options", [{}, {"keys": 4}, {"keys": 3, "mask": Mask("random")}, {"causal": True}])
def test_nothing_is_said_of_a_right_forward_call(options):
    call = _without_key_bias(forward_call(**options))
    answer = ask_forward(call, "fused")
    assert cause_of(ForwardCase(**options), answer.value.astype(np.float32), answer) is None


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_said_of_noise_whatever_the_sizes(seed):
    rng = np.random.default_rng(seed)
    batch, groups, kv_heads, queries, size, value_size = (int(n) for n in rng.integers(1, 4, 6))
    keys, causal = queries + int(rng.integers(0, 3)), bool(rng.integers(2))
    mask = Mask(
        "random", "noise", rng.choice(["bool", "q"]), rng.choice(["ts", "b11s", "1hts", "bht1"]), "each"
    )
    case = KernelCase(
        batch, groups * kv_heads, kv_heads, queries, keys, size, value_size, seed=seed, causal=causal,
        dtype=str(rng.choice(["float32", "float64", "bfloat16"])), mask=None if causal or seed % 3 == 0 else mask,
    )  # fmt: skip
    call = build(case)
    answer = answered(call, case.dtype)
    got = rng.standard_normal(answer.value.shape).astype(call.q.dtype)
    assert cause_of(case, got, answer) is None
    forward = ForwardCase(
        batch, kv_heads, size, queries, None if causal else keys, seed=seed, causal=causal, mask=case.mask
    )
    answer = ask_forward(_without_key_bias(build_forward(forward)), "fused")
    assert cause_of(forward, rng.standard_normal(answer.value.shape).astype(np.float32), answer) is None


def test_nothing_is_said_where_the_right_answer_is_near():
    # One key: every scale gives its value, and so do inverted and ignored causality.
    case = KernelCase(1, 1, 1, 1, 1, 4, 4, causal=True)
    call = build(case)
    got = (call.v * np.float32(1.00001)).astype(np.float32)
    with pytest.raises(Failed):
        expect.within(got, answered(call))
    assert cause_of(case, got, answered(call)) is None


def test_large_problems_and_failures_without_evidence_are_passed_over():
    case = KernelCase(1, 1, 1, 4, LARGEST // 4 + 1, 1, 1)
    call = build(case)
    assert cause_of(case, np.zeros_like(call.q), answered(call)) is None
    assert likely_cause((PLAIN, Failed("raised"))) is None


def test_a_cause_must_explain_other_failures_too():
    call = build(MASKED)
    answer = answered(call)
    ignored = Evidence(solve(lower(call.q, call.k, call.v)).o.astype(np.float32), answer)
    noise = Evidence(np.random.default_rng(0).standard_normal(call.q.shape).astype(np.float32), answer)
    first, odd = ((MASKED, Failed("wrong", None, evidence)) for evidence in (ignored, noise))
    assert likely_cause(first, first).name == "mask-ignored"
    assert likely_cause(first, *[first] * 9, odd).name == "mask-ignored"  # one in ten may have its own ways
    assert likely_cause(first, *[first] * 8, odd) is None


def test_the_row_is_told_and_written_with_its_cause(capsys, tmp_path):
    path = tmp_path / "result.json"
    options = ["--only", "EQ-3", "--effort", "smoke", "--json", str(path)]
    main(["run", "mutant:no-scale", *options])
    sentence = BY_NAME["scale-missing"].sentence
    assert f"likely cause: {sentence}" in " ".join(capsys.readouterr().out.split())
    data = json.loads(path.read_text())
    jsonschema.validate(data, json.loads((files("attn_conformance") / "schema/result-1.json").read_text()))
    rows = data["results"][0]["requirements"]
    assert rows["EQ-3"]["cause"] == sentence
    assert rows["EQ-5"]["cause"] is None
