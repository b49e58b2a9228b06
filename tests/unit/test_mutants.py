"""Every wrong kernel is caught by some script of calls here; twins and controls pass them all.

A script is a history on one fresh kernel, and "wrong" means: outside the reference's bound, another shape or dtype,
an error that is missing or different, an input or the global random state that changed. The suite proper has to find
such calls by itself; this file only says that mutants are wrong, and that what must be right is right.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from attn_conformance.controls import controls
from attn_conformance.mutants import BUG_CLASSES, Mutant, Remembering, mutants
from attn_reference import Claims, bound, limit, lower, lse_bound, solve, solve_extended
from attn_reference.errors import check_kernel_call
from attn_reference.requirements import load_requirements

INF = np.inf
# Those with gradients are in PyTorch: test_gradient_mutants.py.
MUTANTS = {n: m for n, m in mutants("kernel").items() if "gradients" not in m.claims.features}
CONTROLS = {n: c for n, c in controls("kernel").items() if "gradients" not in c.claims.features}
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass
class Call:
    q: Any
    k: Any
    v: Any
    mask: Any = None
    is_causal: bool = False
    scale: float | None = None

    def arrays(self) -> list[Any]:
        return [x for x in (self.q, self.k, self.v, self.mask) if isinstance(x, np.ndarray)]

    def args(self) -> tuple[list[Any], dict[str, Any]]:
        named = {} if self.scale is None else {"scale": self.scale}
        return [self.q, self.k, self.v, self.mask, self.is_causal], named

    def needs(self) -> set[str]:
        """Features that the call asks for beyond those of every kernel here."""
        if self.fault() is not None:
            return {"validates"}
        needs = {"gqa"} if self.q.shape[1] != self.k.shape[1] else set()
        needs |= {"dv"} if self.v.shape[3] != self.q.shape[3] else set()
        return needs | ({"scale"} if self.scale is not None else set())

    def fault(self) -> Exception | None:
        try:
            check_kernel_call(self.q, self.k, self.v, self.mask, self.is_causal, self.scale)
        except (TypeError, ValueError) as error:
            return error
        return None


Script = Callable[[np.random.Generator, Any], list[Call]]
SCRIPTS: dict[str, Script] = {}


def script(function: Script) -> Script:
    SCRIPTS[function.__name__] = function
    return function


def qkv(
    rng: np.random.Generator,
    dtype: Any,
    B: int = 2,
    H: int = 3,
    T: int = 5,
    S: int = 7,
    D: int = 12,
    *,
    Hkv: int | None = None,
    Dv: int | None = None,
    size: float = 1.0,
) -> tuple[Any, Any, Any]:
    """q, k and v; the scaled scores are about `size` large."""
    n = H if Hkv is None else Hkv
    shapes = [(B, H, T, D), (B, n, S, D), (B, n, S, D if Dv is None else Dv)]
    factors = [size, 1.0, 1.0]
    q, k, v = (f * rng.standard_normal(s) for f, s in zip(factors, shapes, strict=True))
    return q.astype(dtype), k.astype(dtype), v.astype(dtype)


def random_mask(rng: np.random.Generator, *shape: int) -> Any:
    """Half the keys visible, key 0 in every row."""
    mask = rng.random(shape) < 0.5
    mask[..., 0] = True
    return mask


@script
def unmasked(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [
        Call(*qkv(rng, dtype)),
        Call(*qkv(rng, dtype, B=3, H=2, T=4, S=3)),
        Call(*qkv(rng, dtype, B=1, H=1, T=1, S=9, D=3)),
        Call(*qkv(rng, dtype, H=4, D=16, size=4)),
        Call(*qkv(rng, dtype, D=96, size=3)),
    ]


@script
def bool_masks(rng: np.random.Generator, dtype: Any) -> list[Call]:
    per_plane = random_mask(rng, 2, 3, 5, 7)
    per_plane[0, 1, 2] = per_plane[1, 2, 0] = False
    return [
        Call(*qkv(rng, dtype), mask=per_plane),
        Call(*qkv(rng, dtype), mask=random_mask(rng, 5, 7)),
        Call(*qkv(rng, dtype), mask=np.zeros((5, 7), np.bool_)),
        Call(*qkv(rng, dtype, T=1), mask=random_mask(rng, 2, 1, 1, 7)),
        Call(*qkv(rng, dtype, T=7), mask=random_mask(rng, 2, 1, 1, 7)),
        Call(*qkv(rng, dtype, B=3), mask=random_mask(rng, 3, 1, 5, 7)),
        Call(*qkv(rng, dtype, B=3), mask=random_mask(rng, 1, 3, 5, 7)),
        Call(*qkv(rng, dtype, T=7), mask=np.ones((7, 7), np.bool_)),
    ]


@script
def lengths_by_element(rng: np.random.Generator, dtype: Any) -> list[Call]:
    keys = np.arange(7)
    longest_first = (keys < np.array([[7], [3]]))[:, None, None]
    return [
        Call(*qkv(rng, dtype), mask=np.broadcast_to(longest_first, (2, 3, 5, 7)).copy()),
        Call(*qkv(rng, dtype), mask=longest_first[::-1].copy()),
    ]


@script
def float_masks(rng: np.random.Generator, dtype: Any) -> list[Call]:
    values = 3 * rng.standard_normal((2, 3, 5, 7)) + 1000.3
    hiding = np.where(random_mask(rng, 5, 7), rng.standard_normal((5, 7)), -INF)
    rows = np.array([1000.0, -1000.0, 200, 0, -90])[:, None] + np.zeros((5, 7))
    deep = -2e4 - 3 * rng.random((5, 7))
    return [
        Call(*qkv(rng, dtype), mask=values.astype(np.float32)),
        Call(*qkv(rng, dtype), mask=hiding.astype(dtype)),
        Call(*qkv(rng, dtype), mask=rows.astype(dtype)),
        Call(*qkv(rng, dtype), mask=np.zeros((5, 7), dtype)),
        Call(*qkv(rng, dtype), mask=deep.astype(np.float32)),
    ]


@script
def causal(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [
        Call(*qkv(rng, dtype, T=T, S=S), is_causal=True)
        for T, S in ((6, 6), (40, 40), (3, 8), (1, 5), (7, 4), (1, 1))
    ]


@script
def tile_edges(rng: np.random.Generator, dtype: Any) -> list[Call]:
    def even(T: int, S: int) -> Call:
        q, k, v = qkv(rng, dtype, B=1, H=2, T=T, S=S, D=8)
        return Call(0 * q, k, v)

    hidden = np.arange(70) >= 32
    return [
        *(even(3, S) for S in (15, 16, 17, 31, 33, 64, 65, 97, 130)),
        Call(*qkv(rng, dtype, B=1, H=2, T=70, S=9, D=8)),
        Call(*qkv(rng, dtype, T=3, S=70), mask=np.broadcast_to(hidden, (3, 70)).copy()),
        Call(*qkv(rng, dtype, B=1, H=2, T=3, S=200, size=8)),
        Call(*qkv(rng, dtype, B=2, H=4, T=80, S=4, D=64)),
        even(65, 3),
    ]


@script
def many_elements_and_heads(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [
        Call(*qkv(rng, dtype, B=6, H=1)),
        Call(*qkv(rng, dtype, B=1, H=6), mask=random_mask(rng, 1, 6, 5, 7)),
    ]


@script
def causal_after_another(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [Call(*qkv(rng, dtype, T=5, S=5), is_causal=flag) for flag in (False, True)]


@script
def many_keys(rng: np.random.Generator, dtype: Any) -> list[Call]:
    # The roundings of many weights cancel, and little but the result's own rounding is left.
    q, k, v = qkv(rng, dtype, B=1, H=1, T=4, S=1024, D=16)
    return [Call(q, k, (v.astype(np.float64) + 100).astype(dtype))]


@script
def large_logits(rng: np.random.Generator, dtype: Any) -> list[Call]:
    q, k, v = qkv(rng, dtype, T=4, S=80, D=16)
    level = np.linspace(-1, 1, 80)[:, None]
    positive, ones = np.abs(q) + np.asarray(1, dtype), np.ones_like(k)

    def scaled(levels: Any, factor: float) -> Call:
        """Logits of about factor * levels, for each key one."""
        return Call(positive, (factor / 8 * levels * ones.astype(np.float64)).astype(dtype), v)

    return [
        scaled(level, 100),
        scaled(-level, 100),
        scaled(level - 6, 50),
        scaled(level - 20, 3000 / 20),
        Call((300 * q).astype(dtype), (40 * np.sign(k)).astype(dtype), v),
        Call(np.full_like(q, 150), np.full_like(k, 100), v),
    ]


@script
def very_negative(rng: np.random.Generator, dtype: Any) -> list[Call]:
    q, _, v = qkv(rng, dtype, T=4, S=9, D=16)
    root = 120 if dtype == np.float16 else 170  # logits of about -57600 and -115600
    level = -1 + 1e-4 * rng.random((2, 3, 9, 1))
    q, k = np.full_like(q, root), (root * level * np.ones(16)).astype(dtype)
    return [Call(q, k, v), Call(q, k, v, mask=random_mask(rng, 4, 9))]


@script
def hidden_keys(rng: np.random.Generator, dtype: Any) -> list[Call]:
    mask = random_mask(rng, 5, 7)
    mask[:, 3] = False
    calls = []
    for sign in (1, -1):
        for size in (60.0, 1e4):
            q, k, v = qkv(rng, dtype)
            q = (np.abs(q) + np.asarray(1, dtype)).astype(dtype)
            k[:, :, 3] = sign * size
            v[:, :, 3] = -sign * size
            calls.append(Call(q, k, v, mask=mask))
    if dtype.itemsize > 2:
        q, k, v = qkv(rng, dtype)
        k[:, :, 3], v[:, :, 3] = 1e28 * np.sign(q[:, :, 0]), 1e30
        calls.append(Call(q, k, v, mask=mask))
    return calls


@script
def uneven(rng: np.random.Generator, dtype: Any) -> list[Call]:
    calls = []
    for where in ((0,), (slice(None), 1)):
        q, k, v = qkv(rng, dtype)
        k = np.abs(k)
        q[...] = -np.abs(q)
        k[where] *= np.asarray(100, dtype)
        calls.append(Call(q, k, v))
        calls.append(Call(-q, k, v))
    q, k, v = qkv(rng, dtype)
    k[0, :, 2] = 0
    return [*calls, Call(q, k, v)]


@script
def zero_sizes(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [
        Call(*qkv(rng, dtype, S=0)),
        Call(*qkv(rng, dtype, T=0)),
        Call(*qkv(rng, dtype, B=0)),
        Call(*qkv(rng, dtype, S=0), mask=np.ones((5, 0), np.bool_)),
        Call(*qkv(rng, dtype, T=0, S=0), is_causal=True),
    ]


@script
def layouts(rng: np.random.Generator, dtype: Any) -> list[Call]:
    calls = []
    views: list[Callable[[Any], Any]] = [
        lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
        lambda x: np.repeat(x, 2, axis=3)[..., ::2],
        lambda x: np.pad(x, [(1, 1)] * 4, mode="edge")[1:-1, 1:-1, 1:-1, 1:-1],
        lambda x: np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.broadcast_to(x[:, :1], x.shape),
    ]
    for view in views:
        q, k, v = (view(x) for x in qkv(rng, dtype))
        calls += [Call(q, k, v), Call(q, k, np.ascontiguousarray(v))]
    big = random_mask(rng, 9, 9)
    big[:, 1] = True
    return [*calls, Call(*qkv(rng, dtype), mask=big[2:7, 1:8])]


@script
def nan(rng: np.random.Generator, dtype: Any) -> list[Call]:
    calls = []
    for i in range(3):
        call = Call(*qkv(rng, dtype))
        call.arrays()[i][0, 1, 2, 3] = np.nan
        calls.append(call)
    return calls


@script
def grouped_heads(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [Call(*qkv(rng, dtype, H=6, Hkv=2)), Call(*qkv(rng, dtype, H=4, Hkv=1), is_causal=True)]


@script
def explicit_scale(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [Call(*qkv(rng, dtype), scale=1.0), Call(*qkv(rng, dtype), scale=-0.3)]


@script
def value_sizes(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [Call(*qkv(rng, dtype, Dv=Dv)) for Dv in (3, 20)]


@script
def same_call_again(rng: np.random.Generator, dtype: Any) -> list[Call]:
    call = Call(*qkv(rng, dtype))
    return [call, call, call]


@script
def other_values(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [Call(*qkv(rng, dtype)) for _ in range(3)]


@script
def longer_causal(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [Call(*qkv(rng, dtype, T=n, S=n), is_causal=True) for n in (2, 9, 5)]


@script
def same_width_other_heads(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [Call(*qkv(rng, dtype, H=H, D=24 // H)) for H in (1, 6, 4)]


@script
def mask_then_none(rng: np.random.Generator, dtype: Any) -> list[Call]:
    empty_row = random_mask(rng, 5, 7)
    empty_row[2] = False
    return [
        Call(*qkv(rng, dtype), mask=random_mask(rng, 5, 7)),
        Call(*qkv(rng, dtype)),
        Call(*qkv(rng, dtype), mask=empty_row),
    ]


@script
def low_dtype_first(rng: np.random.Generator, dtype: Any) -> list[Call]:
    return [Call(*qkv(rng, np.dtype(np.float16))), Call(*qkv(rng, dtype))]


@script
def rejected_then_masked(rng: np.random.Generator, dtype: Any) -> list[Call]:
    rejected = Call(*qkv(rng, dtype), mask=random_mask(rng, 5, 9))
    return [rejected, Call(*qkv(rng, dtype), mask=random_mask(rng, 5, 7))]


@script
def wrong_masks(rng: np.random.Generator, dtype: Any) -> list[Call]:
    shapes = [(5, 8), (5, 6), (6, 7), (4, 7), (3, 1, 5, 7), (1, 2, 5, 7), (3, 5, 7), (2, 5, 7), (7,)]
    ones = np.ones((5, 7), np.bool_)
    return [
        *(Call(*qkv(rng, dtype), mask=random_mask(rng, *shape)) for shape in shapes),
        Call(*qkv(rng, dtype), mask=ones.astype(np.int64)),
        Call(*qkv(rng, dtype), mask=random_mask(rng, 5, 7), is_causal=True),
        Call(*qkv(rng, dtype), mask=ones, is_causal=True),
    ]


@script
def wrong_shapes(rng: np.random.Generator, dtype: Any) -> list[Call]:
    q, k, v = qkv(rng, dtype)
    return [
        Call(q, k[:, :, 1:], v),
        Call(q, k, v[:, :, 1:]),
        Call(q[0], k[0], v[0]),
        Call(q[:1], k, v),
        Call(q[..., 1:], k, v),
        Call(q.tolist(), k, v),
    ]


# ------------------------------------------------------------------------------- judging


@dataclass(frozen=True)
class Expected:
    out: Any
    out_limit: Any
    lse: Any
    lse_limit: Any


def build(name: str, dtype: str) -> list[Call]:
    with np.errstate(all="ignore"):
        return SCRIPTS[name](np.random.default_rng(len(name)), DTYPES[dtype])


@cache
def expected(name: str, dtype: str, position: int, arithmetic: Any) -> Expected:
    call = build(name, dtype)[position]
    problem = lower(call.q, call.k, call.v, call.mask, call.is_causal, call.scale)
    stored = call.q.dtype.name
    solution = (solve_extended if stored == "float64" else solve)(problem)
    error = bound(problem, solution, stored, arithmetic)
    lse_error = lse_bound(problem, solution, stored, arithmetic)
    return Expected(solution.o, limit(solution.o, error, stored), solution.lse, lse_error)


def off(got: Any, value: Any, allowed: Any) -> bool:
    """Whether an array is out of bound somewhere, or NaN in other places."""
    if not isinstance(got, np.ndarray) or got.shape != value.shape:
        return True
    with np.errstate(all="ignore"):
        wide = got.astype(np.float64)
        due = np.isnan(value)
        error = np.where(wide == value, 0, np.abs(wide - value))
        return bool((np.where(due, ~np.isnan(wide), ~(error <= allowed)) & ~np.isinf(allowed)).any())


@dataclass
class Judged:
    """What went wrong with a kernel, script by script."""

    faults: list[str] = field(default_factory=list)
    calls: int = 0


def fresh(kernel: Any) -> Any:
    return kernel.fresh() if isinstance(kernel, Remembering) else kernel


def judge(kernel: Any, claims: Claims, name: str, dtype: str) -> Judged:
    """Run a script on a kernel that has seen nothing."""
    judged = Judged()
    kernel = fresh(kernel)
    for position, call in enumerate(build(name, dtype)):
        if not call.needs() <= claims.features or call.arrays()[0].dtype.name not in claims.dtypes:
            continue
        judged.calls += 1
        said = _wrong(kernel, call, claims, name, dtype, position)
        if said:
            judged.faults.append(f"{name}[{position}] {dtype}: {said}")
    return judged


def _wrong(kernel: Any, call: Call, claims: Claims, name: str, dtype: str, position: int) -> str:
    before = [x.tobytes() for x in call.arrays()]
    np.random.seed(12345)  # noqa: NPY002  # its state must survive the call
    state = np.random.get_state()[1].tobytes()  # type: ignore[index]  # noqa: NPY002
    args, named = call.args()
    fault = call.fault()
    try:
        out = kernel(*args, **named)
    except Exception as error:
        if fault is None:
            return f"raised {error!r}"
        if (type(error), error.args) != (type(fault), fault.args):
            return f"raised {error!r}, not {fault!r}"
        out = None
    else:
        if fault is not None:
            return "did not raise"
    if [x.tobytes() for x in call.arrays()] != before:
        return "changed its inputs"
    if np.random.get_state()[1].tobytes() != state:  # type: ignore[index]  # noqa: NPY002
        return "changed the random state"
    if fault is not None:
        return ""
    right = expected(name, dtype, position, claims.arithmetic)
    if "lse" in claims.features:
        if not isinstance(out, tuple):
            return "no log-sum-exp"
        out, lse = out
        if off(lse, right.lse, right.lse_limit):
            return "log-sum-exp out of bound"
    if out.dtype != call.q.dtype:
        return f"dtype {out.dtype}"
    return "out of bound" if off(out, right.out, right.out_limit) else ""


def scripts(claims: Claims) -> Iterator[tuple[str, str]]:
    return ((name, dtype) for dtype in DTYPES if dtype in claims.dtypes for name in SCRIPTS)


# --------------------------------------------------------------------------------- tests


def shown_elsewhere(mutant: Mutant) -> bool:
    """What no single element shows is in test_bias.py; what takes thousands of keys, in test_lengths.py.

    What is held in memory is measured here, apart from the scripts.
    """
    return mutant.requirement in ("NUM-5", "MEM-1") or mutant.target.__module__.endswith(".lengths")


@pytest.mark.parametrize("name", [name for name, m in MUTANTS.items() if not shown_elsewhere(m)])
def test_the_mutant_is_wrong_somewhere(name: str) -> None:
    mutant = MUTANTS[name]
    for script_name, dtype in scripts(mutant.claims):
        if judge(mutant.target, mutant.claims, script_name, dtype).faults:
            return
    pytest.fail(f"{name} passes every script")


@pytest.mark.parametrize("name", [name for name, m in MUTANTS.items() if m.requirement == "MEM-1"])
def test_the_mutant_holds_an_element_for_each_score_and_its_twin_does_not(name: str) -> None:
    arrays = qkv(np.random.default_rng(0), DTYPES["float32"], B=1, H=1, T=1500, S=1500, D=8)
    held = {}
    for kernel in (MUTANTS[name].target, MUTANTS[name].twin):
        tracemalloc.start()
        kernel(*arrays, None, True)
        held[kernel] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    scores = 1500 * 1500 * 4
    assert held[MUTANTS[name].target] > scores > 4 * held[MUTANTS[name].twin]


TWINS = {
    (m.twin.__module__, m.twin.__name__, m.claims): m for m in MUTANTS.values()
}  # one mutant for each twin and claims


@pytest.mark.parametrize("mutant", TWINS.values(), ids=lambda m: f"twin of {m.name}")
def test_the_twin_is_right_everywhere(mutant: Mutant) -> None:
    for name, dtype in scripts(mutant.claims):
        assert judge(mutant.twin, mutant.claims, name, dtype).faults == []


@pytest.mark.parametrize("name", CONTROLS)
def test_the_control_is_right_everywhere(name: str) -> None:
    control = CONTROLS[name]
    judged = [judge(control.target, control.claims, *at) for at in scripts(control.claims)]
    assert [fault for j in judged for fault in j.faults] == []
    assert sum(j.calls for j in judged) > 60


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_key_at_a_time_is_batch_invariant(dtype: str) -> None:
    kernel = CONTROLS["one-key-at-a-time"].target
    q, k, v = qkv(np.random.default_rng(0), DTYPES[dtype], B=5, H=3, T=6, S=40, D=19)
    together = kernel(q, k, v, is_causal=True)
    for b in range(5):
        alone = kernel(q[[b]], k[[b]], v[[b]], is_causal=True)
        assert alone.tobytes() == together[[b]].tobytes()


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda m: m.name)
def test_the_mutant_is_documented(mutant: Mutant) -> None:
    assert mutant.lie.endswith(".")
    assert mutant.bug_class in BUG_CLASSES
    assert mutant.seen_in
    assert all(link.startswith("https://github.com/") for link in mutant.seen_in)
    assert mutant.twin is not mutant.target
    table = load_requirements()
    for requirement in (mutant.requirement, *mutant.also_fails):
        assert "kernel" in table[requirement].kinds


def test_every_must_of_kernels_has_two_mutants() -> None:
    killed = [m.requirement for m in mutants("kernel").values()]
    for requirement in load_requirements().values():
        asked = requirement.level == "must" or requirement.claimed_level == "must"
        if "kernel" in requirement.kinds and asked and not requirement.benched and requirement.id != "PURE-7":
            assert killed.count(requirement.id) >= 2, requirement.id


def test_there_are_many_and_they_are_named_in_kebab_case() -> None:
    assert len(MUTANTS) >= 140
    assert len(CONTROLS) >= 14
    for name in (*MUTANTS, *CONTROLS):
        assert name == name.lower()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_memory_is_the_kernels_own() -> None:
    kernel = MUTANTS["result-remembered-by-shape"].target
    assert isinstance(kernel, Remembering)
    first, second = (qkv(np.random.default_rng(seed), DTYPES["float32"]) for seed in (1, 2))
    one, other = kernel.fresh(), kernel.fresh()
    assert np.array_equal(one(*first), one(*second))
    assert not np.array_equal(one(*first), other(*second))


def test_the_transposed_result_is_a_view() -> None:
    out = CONTROLS["transposed-result"].target(*qkv(np.random.default_rng(0), DTYPES["float16"]))
    assert not out.flags.c_contiguous
