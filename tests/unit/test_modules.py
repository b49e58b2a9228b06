"""Modules as targets: what is recognised, what is said of those that cannot be judged, and what an adapter needs."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from attn_conformance.cases import ForwardCase, KernelCase, Mask, build, build_forward, carrier
from attn_conformance.cases.values import STORAGE
from attn_conformance.implementation import Implementation
from attn_conformance.judge import compare
from attn_conformance.loading import TargetError
from attn_conformance.memory import peak_of
from attn_conformance.mutants.modules.plain import Plain
from attn_conformance.runner import run
from attn_conformance.targets import Narrowing, subject
from attn_reference import Claims, MultiHeadAttention
from attn_reference.claims import MODULE_FEATURES

FILE = '''
import numpy as np
from attn_reference import Claims, MultiHeadAttention

class Renamed:
    """A class whose parameters have other names."""
    def __init__(self, n_state, n_head, causal=False): pass
    def state_dict(self): return {"to_q.weight": np.zeros(1)}
    def __call__(self, x): return x

class Pair(MultiHeadAttention):
    """A class that returns its weights too."""
    claims = None
    def forward(self, x, xa=None, mask=None, kv_cache=None):
        return super().forward(x, xa, mask, kv_cache), None
    __call__ = forward

class SelfOnly(MultiHeadAttention):
    """A class without xa, mask, cache and qkv_attention."""
    claims = None
    qkv_attention = None
    def __init__(self, n_state, n_head):
        MultiHeadAttention.__init__(self, n_state, n_head)
    def forward(self, x):
        inner = MultiHeadAttention(x.shape[-1], self.n_head)
        inner.load_state_dict(self.state_dict())
        return inner(x)
    __call__ = forward

class Trimming(MultiHeadAttention):
    """A class that drops what of xa is beyond the batch of x."""
    claims = None
    def forward(self, x, xa=None, mask=None, kv_cache=None):
        return super().forward(x, xa if xa is None else xa[:len(x)], mask, kv_cache)
    __call__ = forward

class NoConstructor:
    def __call__(self, x): return x

class Adapter:
    """The least that an implementation is: a module of another interface behind build and forward."""
    claims = Claims(dtypes=("float32",), features=frozenset({"cross", "bool-mask"}), arithmetic="precise")
    border = "numpy"
    def build(self, n_state, n_head, causal, params):
        module = MultiHeadAttention(n_state, n_head, causal)
        module.load_state_dict(params)
        return module
    def forward(self, handle, x, xa=None, mask=None):
        return handle(x, xa, mask)

adapter = Adapter()

class Refuses(Adapter):
    def forward(self, handle, x, xa=None, mask=None):
        raise RuntimeError("only on Tuesdays")
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "modules_of_a_stranger.py"
    path.write_text(FILE)
    yield path
    sys.modules.pop("modules_of_a_stranger", None)


def test_a_class_that_fills_its_dict_and_one_that_leaves_it_to_hooks_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "hooked.py").write_text(
        "from attn_flash import MultiHeadAttention\n"
        "class Hooked(MultiHeadAttention):\n"
        "    claims = None\n"
        "    def forward(self, x, xa=None, mask=None, kv_cache=None):\n"
        "        hooks = self.key._forward_hooks\n"
        "        return super().forward(x, xa, mask, kv_cache if hooks or xa is not None else None)\n"
    )
    found, _ = subject(f"{tmp_path}/hooked.py:Hooked")
    assert found.convention.name == "whisper-hooks"
    assert found.scope.has("torch-module")
    assert run(found, effort="smoke", only=("CACHE-2", "CACHE-3")).counts["passed"] == 2
    plain, _ = subject("attn-flash")
    assert plain.convention.name == "seed"
    forced, _ = subject("attn-flash", Narrowing(convention="whisper-hooks"))
    assert forced.convention.name == "whisper-hooks"
    sys.modules.pop("hooked", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Renamed", r"its parameters lack query.weight, .*; it has to_q.weight.*takes an adapter"),
        (
            "NoConstructor",
            r"a class needs no adapter if it is NoConstructor\(n_state, n_head, causal=False\)",
        ),
        ("Refuses", "raised RuntimeError: only on Tuesdays"),
    ],
)
def test_what_cannot_be_judged_says_what_it_lacks(here, name, message):
    with pytest.raises(TargetError, match=message):
        subject(f"{here}:{name}")


def test_a_class_claims_what_its_signatures_leave_room_for(here):
    found, refused = subject(f"{here}:SelfOnly")
    found = replace(found, foreign=False)  # it is made of the reference
    assert refused == {}
    assert found.scope.windows == ("self",)
    assert not found.claims.features & {"cross", "bool-mask", "cache", "qkv", "causal"}
    report = run(found, effort="smoke", only=("EQ-1", "EQ-3", "EQ-5", "MASK-1", "CACHE-1", "OUT-2"))
    assert report.rows["EQ-1"].status == report.rows["EQ-5"].status == "passed"
    assert report.rows["EQ-3"].message == "not claimed: qkv"
    assert report.rows["CACHE-1"].message == "not claimed: cache"


def test_a_result_of_the_wrong_shape_is_said_once(here):
    found, refused = subject(f"{here}:Pair")
    report = run(found, effort="smoke", refused=refused)
    failed = [name for name, row in report.rows.items() if row.status == "failed"]
    assert failed == ["OUT-1"]
    assert "a numpy.ndarray was expected, got tuple" in report.rows["OUT-1"].message
    assert report.rows["EQ-1"].message == "not run: the smallest call fails OUT-1"
    assert report.verdict == "fails"


def test_a_batch_of_1_that_is_not_broadcast_is_observed_as_such(here):
    found, _ = subject(f"{here}:Trimming")
    row = run(found, only=["OUT-5"]).rows["OUT-5"]
    assert row.status == "observed"
    assert "a batch of 1 in x gives something else than the broadcast" in row.observation


def test_an_adapter_of_a_few_lines_is_judged_by_what_it_claims(here):
    for name in ("adapter", "Adapter"):  # an instance, or a class that needs no arguments
        found, refused = subject(f"{here}:{name}")
        assert (found.convention.name, refused) == ("adapter", {})
    assert isinstance(found.implementation, Implementation)
    report = run(replace(found, foreign=False), effort="smoke")  # it is made of the reference
    assert report.verdict == "conforms"
    assert report.rows["PURE-1"].status == "passed"
    assert report.rows["CTOR-1"].message == "not claimed: constructor"


def made(cls, **claims):
    from attn_conformance.borders import NumpyBorder
    from attn_conformance.conventions import SEED
    from attn_conformance.drop_in import DropIn
    from attn_conformance.module_subject import ModuleSubject

    features = MODULE_FEATURES - {"gradients", "linear-memory"}
    record = Claims(features=frozenset(features), **claims)
    return ModuleSubject("a class", DropIn(cls, NumpyBorder(), record), SEED, NumpyBorder(), record)


class Opaque(Plain):
    """Keeps its keys in a mapping that shows nothing of them."""

    def __call__(self, x, xa=None, mask=None, kv_cache=None):
        if kv_cache is None:
            return super().__call__(x, xa, mask)
        inner = kv_cache.setdefault("hidden", Box())
        return super().__call__(x, xa, mask, inner.entries)


class Box:
    def __init__(self):
        self.entries = {}


def test_a_cache_that_shows_nothing_is_judged_by_behaviour_and_asked_nothing_more():
    report = run(made(Opaque), effort="smoke", only=("CACHE", "CAUSAL-6", "ERR-3"))
    assert report.rows["CACHE-2"].status == report.rows["CAUSAL-6"].status == "passed"
    assert report.rows["CACHE-8"].message == "nothing to ask: the cache does not tell its length"
    assert "does not show the module's entries" in report.rows["CACHE-9"].message


class Uncounted(Plain):
    """Its matrix products are made where nobody counts them, as inside another library."""

    def __call__(self, x, xa=None, mask=None, kv_cache=None):
        return super().__call__(np.array(x), None if xa is None else np.array(xa), mask, kv_cache)


def test_products_that_nobody_counts_are_not_taken_for_a_second_projection():
    row = run(made(Uncounted), effort="smoke", only=("CACHE-8",)).rows["CACHE-8"]
    assert row.status == "passed", row.message


class Accepts(Plain):
    """A causal module that takes a mask, and ignores it."""

    def __call__(self, x, xa=None, mask=None, kv_cache=None):
        return super().__call__(x, xa, None if self.causal else mask, kv_cache)


def test_calls_that_are_not_rejected_are_left_to_the_requirement_that_says_so():
    report = run(made(Accepts), effort="smoke", only=("CAUSAL-4", "CAUSAL-6"))
    assert report.rows["CAUSAL-4"].status == "failed"
    assert report.rows["CAUSAL-6"].status == "skipped"
    assert "not rejected, which other requirements judge" in report.rows["CAUSAL-6"].message


def test_the_shortest_failing_script_is_told_step_by_step():
    class Leaks(Plain):
        def attend(self, q, k, v, mask):
            kept, self.causal = self.causal, self.causal and q.shape[1] == k.shape[1]
            try:
                return super().attend(q, k, v, mask)
            finally:
                self.causal = kept

    row = run(made(Leaks), only=("CACHE-2",)).rows["CACHE-2"]
    assert row.summary.endswith("causal, steps: self 1 | self 2, seed 0")
    assert row.message.startswith("step 2 (self 2): differs from the reference")


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize("window", ["self", "cross", "cached"])
def test_carriers_carry_exactly(dtype, window):
    """Through a correct forward, q, k and v come out as from qkv_attention, bit for bit."""
    found = made(MultiHeadAttention, arithmetic="precise")
    sizes = {"queries": 3, "keys": 5 if window != "self" else 3}
    case = KernelCase(2, 3, 3, head_size=4, value_size=4, dtype=dtype, window=window, seed=3, **sizes)
    call = build(case)
    answer = found.answer(call)
    assert compare(found.attention(call), answer).ok
    q, k, v = call.q, call.k, call.v
    weights = carrier(3, 4, 12, 3)
    np.testing.assert_array_equal(weights.unpack(weights.pack(q, q, q))[1], q)
    assert answer.value.shape == (2, 3, 3, 4)
    assert found.lower(call).scale == (1 / 12**0.5 if window != "cross" else 1 / 8**0.5)
    assert k.shape == v.shape


def test_nan_in_a_token_reaches_all_that_is_projected_from_it():
    found = made(MultiHeadAttention)
    call = build(KernelCase(2, 2, 2, 3, 3, 4, 4, window="self"))
    q = call.q.copy()
    q[0, 1, 2, 0] = np.nan
    problem = found.lower(call.with_array("q", q))
    assert np.isnan(problem.k[0, :, 2]).all()
    assert np.isfinite(problem.k[1]).all()
    assert np.isfinite(problem.q[0, :, :2]).all()


def test_forward_cases_tell_themselves():
    mask = Mask("random", axes="bhts")
    case = ForwardCase(2, 2, 4, 3, 5, "float32", "float64", zeros=True, mask=mask, change="loaded", seed=7)
    assert case.describe() == (
        "forward, cross-attention, B=2 n_state=8 n_head=2 T=3 S=5 float32, float64 weights, "
        "bool mask (bhts): random, some tokens zero, loaded, seed 7"
    )
    call = build_forward(case)
    assert call.params["query.weight"].dtype == np.float64
    assert call.cast["query.weight"].dtype == np.float32
    assert (call.xa == 0).all(-1).any()


def test_the_peak_of_a_call_is_what_it_held():
    def holds():
        np.ones(2**24)  # 128 MiB

    peak = peak_of(holds)
    if peak is None:
        pytest.skip("this system does not tell")
    assert 2**26 < peak < 2**28
    assert peak_of(lambda: None) < 2**24
