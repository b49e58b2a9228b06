"""Benchmarks without real time: what decides, who is found out, what is left out, what a machine is compared by."""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attn_conformance.bench import clocks, machine, pairs, posed_module
from attn_conformance.bench import run as runs
from attn_conformance.bench.clocks import Clock, CudaClock, HostClock, Reading, clock_for
from attn_conformance.bench.grids import grid, missing
from attn_conformance.bench.inputs import pool
from attn_conformance.bench.kernels import apart, families, plain
from attn_conformance.bench.pairs import spread
from attn_conformance.bench.posed import pose
from attn_conformance.bench.results import Benchmark, Benchmarks, LeftOut, Measurement
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.bench.run import CANARY, run
from attn_conformance.bench.verdict import closing
from attn_conformance.bench.workloads import CACHED, WORKS, Workload
from attn_conformance.borders import NumpyBorder
from attn_conformance.cli import main
from attn_conformance.judge import Failed
from attn_conformance.loading import TargetError
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.targets import Narrowing, subject

FORWARD = Workload("forward", 2, 4, 6, 6, 8, "float32", is_causal=True)
MODULE = replace(FORWARD, kind="module")
MACHINE = {"device": "cpu", "cpu": "x", "ceilings": {"gemm": {"float32": 1e12}, "read": 1e10, "copy": 1e10}}

SOURCE = """
from functools import partial

import metered
import numpy as np

from attn_reference import attention


def right(q, k, v, mask=None, is_causal=False, *, cost=1_000_000):
    metered.ticks += int(cost)
    return attention(q, k, v, mask=mask, is_causal=is_causal)


base = partial(right, cost=1_000_000)
same = partial(right, cost=1_000_000)
harmless = partial(right, cost=1_010_000)
slow = partial(right, cost=1_080_000)
fast = partial(right, cost=500_000)
short = partial(right, cost=100_000)


def noisy(q, k, v, mask=None, is_causal=False):
    return right(q, k, v, mask, is_causal, cost=1_000_000 * np.exp(metered.rng.normal(0, 0.3)))


def noisy_and_slow(q, k, v, mask=None, is_causal=False):
    return right(q, k, v, mask, is_causal, cost=3_000_000 * np.exp(metered.rng.normal(0, 0.2)))


def copied(q, k, v, mask=None, is_causal=False):
    return right(q, k, v, mask, is_causal)


def fresh():
    metered.copies += 1
    return partial(right, cost=1_000_000 + 100_000 * (metered.copies % 2))


copied.fresh = fresh


def addressed(q, k, v, mask=None, is_causal=False, *, first={}):
    mine = first.setdefault(q.shape, q.ctypes.data)
    return right(q, k, v, mask, is_causal, cost=2_000_000 if q.ctypes.data == mine else 1_000_000)


def by_address(q, k, v, mask=None, is_causal=False, *, known={}):
    metered.ticks += 10
    key = (q.ctypes.data, q.shape)
    if key not in known:
        known[key] = attention(q, k, v, mask=mask, is_causal=is_causal)
    return known[key]


def by_value(q, k, v, mask=None, is_causal=False, *, known=[]):
    metered.ticks += 10
    if not known or known[0].shape != q.shape:
        known[:] = [attention(q, k, v, mask=mask, is_causal=is_causal)]
    return known[0].copy()


def now_and_then(q, k, v, mask=None, is_causal=False, *, last=[]):
    metered.ticks += 10
    if len(last) != 1 or last[0].shape != q.shape:
        last[:] = [attention(q, k, v, mask=mask, is_causal=is_causal)]
        return last[0]
    return last.pop()


def overwriting(q, k, v, mask=None, is_causal=False):
    metered.ticks += 10
    k[...], v[...] = 0, 1
    return np.ones_like(q)


def wrong(q, k, v, mask=None, is_causal=False):
    metered.ticks += 10
    return attention(q, k, v, mask=mask, is_causal=is_causal) * 1.01


def misshapen(q, k, v, mask=None, is_causal=False):
    return attention(q, k, v, mask=mask, is_causal=is_causal)[..., : 8 if q.shape[3] == 8 and q.shape[2] < 4 else 4]


def breaking(q, k, v, mask=None, is_causal=False):
    metered.ticks += 1_000_000
    metered.calls += 1
    if metered.calls > 12 and q.shape == (2, 4, 6, 8):
        raise RuntimeError("worn out")
    return attention(q, k, v, mask=mask, is_causal=is_causal)


def unmasked(q, k, v, is_causal=False):
    metered.ticks += 1_000_000
    return attention(q, k, v, is_causal=is_causal)
"""


class Metered(ModuleType):
    """What the targets of a test add their costs to."""

    ticks = 0
    copies = 0
    calls = 0
    rng = np.random.default_rng(0)


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> Metered:
    module = Metered("metered")
    module.rng = np.random.default_rng(0)
    monkeypatch.setitem(sys.modules, "metered", module)
    return module


class Posers:
    """Runs targets of SOURCE against each other, by costs in place of time."""

    def __init__(self, file: Path, metered: Metered) -> None:
        self.file, self.metered = file, metered

    def clock(self, borders: Collection[str], device: str) -> Clock:
        def ticks() -> int:
            return self.metered.ticks

        return HostClock("thread", ticks, ticks, ticks)

    def target(self, name: str) -> str:
        return f"{self.file}:{name}"

    def run(self, candidate: str, base: str | None = None, *workloads: Workload, **more: Any) -> Benchmarks:
        return run(
            candidate if ":" in candidate else self.target(candidate),
            None if base is None else self.target(base),
            workloads=workloads or (FORWARD,),
            clock=self.clock,
            machine=MACHINE,
            **more,
        )


@pytest.fixture
def posers(tmp_path: Path, metered: Metered, monkeypatch: pytest.MonkeyPatch) -> Posers:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    file = tmp_path / "metered_targets.py"
    file.write_text(SOURCE)
    return Posers(file, metered)


def one(result: Benchmarks) -> Benchmark:
    (benchmark,) = result.benchmarks
    return benchmark


@pytest.mark.parametrize(
    ("candidate", "verdict", "ratio"),
    [("same", "fine", 1.0), ("harmless", "fine", 1.01), ("fast", "fine", 0.5), ("slow", "regressed", 1.08)],
)
def test_costs_decide(posers: Posers, candidate: str, verdict: str, ratio: float) -> None:
    result = posers.run(candidate, "base")
    benchmark = one(result)
    assert result.canary is not None
    assert result.canary.verdict == "fine"
    assert benchmark.decision is not None
    assert benchmark.decision.verdict == verdict
    assert benchmark.decision.ratio == pytest.approx(ratio, rel=1e-6)
    assert benchmark.decision.rounds == 12  # there is no noise
    assert 0 < (benchmark.candidate.error or 0) <= 1
    assert benchmark.candidate.seconds == pytest.approx([1e-3 * ratio] * 12)
    assert closing(result).ok == (verdict == "fine")
    assert ("is slower" in closing(result).sentence) == (verdict == "regressed")


def test_noise_is_no_pass_even_where_the_median_is_equal(posers: Posers) -> None:
    result = posers.run("noisy", "base")
    decision = one(result).decision
    assert decision is not None
    assert decision.verdict == "inconclusive"
    assert decision.rounds == 320
    assert not closing(result).ok
    assert "quieter machine" in closing(result).sentence


def test_noise_hides_nothing_that_is_much_larger(posers: Posers) -> None:
    decision = one(posers.run("noisy_and_slow", "base")).decision
    assert decision is not None
    assert decision.noise > Rule().noise
    assert decision.verdict == "regressed"


def test_a_bound_that_noise_may_reach_is_no_verdict() -> None:
    rule = Rule()
    assert rule.verdict(0.05, 0.07, noise=0.05) == "regressed"
    assert rule.verdict(0.05, 0.07, noise=0.051) == "inconclusive"
    assert rule.verdict(0.08, 0.1, noise=0.051) == "regressed"
    assert rule.verdict(-0.01, 0.01, noise=0.05) == "fine"
    assert rule.verdict(-0.01, 0.01, noise=0.051) == "inconclusive"
    assert rule.verdict(-0.03, -0.01, noise=0.051) == "fine"


def test_what_is_probably_slower_is_looked_at_again() -> None:
    rule = Rule()
    early = [1.0, *np.linspace(1.005, 1.04, 11)]
    assert rule.decide([1.0] * 12, early) is None
    last = replace(rule, looks=(12,)).decide([1.0] * 12, early)
    assert last is not None
    assert last.verdict == "fine"
    decision = rule.decide([1.0] * 40, [*early, *np.linspace(1.03, 1.05, 28)])
    assert decision is not None
    assert decision.verdict == "regressed"


def test_a_base_that_is_not_equal_to_itself_discounts_every_decision(posers: Posers) -> None:
    result = posers.run("base", "copied")
    assert result.canary is not None
    assert result.canary.verdict == "regressed"
    benchmark = one(result)
    assert benchmark.decision is not None
    assert (benchmark.decision.verdict, benchmark.problem) == ("inconclusive", CANARY)
    assert closing(result).sentence.startswith("undecided: two copies of")


def test_short_calls_are_repeated_and_told_by_the_call(posers: Posers) -> None:
    benchmark = one(posers.run("short", "base"))
    assert benchmark.candidate.seconds == pytest.approx([1e-4] * 12)
    assert benchmark.base is not None
    assert benchmark.base.seconds == pytest.approx([1e-3] * 12)


def test_where_other_threads_work_the_wall_clock_decides(posers: Posers, metered: Metered) -> None:
    def half() -> int:
        return metered.ticks // 2

    posers.clock = lambda borders, device: HostClock("thread", half, half, lambda: metered.ticks)  # type: ignore[method-assign]
    assert one(posers.run("slow", "base")).clock == "wall"


def test_two_sides_exchange_their_buffers_and_keep_their_own_costs(posers: Posers, metered: Metered) -> None:
    result = posers.run("addressed", "base")
    seconds = one(result).candidate.seconds
    assert min(seconds) == pytest.approx(1e-3)  # of ten buffers one is dear
    assert max(seconds) == pytest.approx(1.1e-3)


def test_inputs_too_large_for_the_memory_are_a_problem_of_their_workload(
    posers: Posers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError("Unable to allocate 1 TiB")

    monkeypatch.setattr(pairs, "pose", full)
    result = posers.run("same", "base")
    assert "its inputs could not be made: MemoryError" in (one(result).problem or "")
    assert not closing(result).ok


def test_what_a_device_reports_late_is_a_problem_of_both(posers: Posers, metered: Metered) -> None:
    class Late(HostClock):
        def read(self) -> list[Reading]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    posers.clock = lambda borders, device: Late()  # type: ignore[method-assign]
    problem = one(posers.run("same", "base")).problem or ""
    assert problem.count("while the device was waited for: raised RuntimeError: CUDA error") == 2


def test_the_same_code_on_other_kernels_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metered: Metered
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    file = tmp_path / "torn.py"
    file.write_text(
        "import metered, torch\n"
        "sdpa = torch.nn.functional.scaled_dot_product_attention\n"
        "def manual(q, k, v, mask=None, is_causal=False):\n"
        "    metered.ticks += 1_000_000\n"
        "    return (q @ k.mT / q.shape[3] ** 0.5).softmax(-1) @ v\n"
        "def attention(q, k, v, mask=None, is_causal=False):\n"
        "    metered.ticks += 1_000_000\n"
        "    return sdpa(q, k, v, mask, is_causal=is_causal)\n"
        "def fresh():\n"
        "    metered.copies += 1\n"
        "    return manual if metered.copies % 2 else attention\n"
        "attention.fresh = fresh\n"
    )
    benchmark = one(Posers(file, metered).run("attention", "attention", replace(FORWARD, is_causal=False)))
    assert benchmark.decision is None
    assert (benchmark.problem or "").startswith(
        "the same code ran other kernels: bmm div _softmax, beside _scaled"
    )


@pytest.mark.parametrize("cheat", ["by_address", "by_value", "now_and_then", "overwriting", "wrong"])
def test_fast_wrong_or_remembered_results_do_not_count(posers: Posers, cheat: str) -> None:
    result = posers.run(cheat, "base")
    benchmark = one(result)
    assert benchmark.decision is None
    assert benchmark.problem is not None
    assert f"{cheat}: the output of element" in benchmark.problem
    assert not closing(result).ok
    assert "could not be compared" in closing(result).sentence


def test_the_base_is_judged_as_well(posers: Posers) -> None:
    benchmark = one(posers.run("same", "wrong"))
    assert benchmark.decision is None
    assert "wrong: the output" in (benchmark.problem or "")
    assert benchmark.candidate.problem is None


def test_what_breaks_or_changes_shape_while_it_is_timed_is_told(posers: Posers) -> None:
    broken, right = posers.run("breaking", "base", FORWARD, replace(FORWARD, B=1)).benchmarks
    assert "raised RuntimeError: worn out" in (broken.problem or "")
    assert right.decision is not None  # one clock serves all workloads of a run
    assert right.decision.ratio == pytest.approx(1.0)
    misshapen = one(posers.run("misshapen"))
    assert "returned shape" in (misshapen.candidate.problem or "")
    assert not closing(replace(posers.run("same"), benchmarks=(misshapen,))).ok


def test_one_implementation_is_measured_and_judged_without_a_base(posers: Posers) -> None:
    result = posers.run("slow")
    benchmark = one(result)
    assert (result.canary, benchmark.base, benchmark.decision, benchmark.problem) == (None, None, None, None)
    assert benchmark.candidate.seconds == pytest.approx([1.08e-3] * 12)
    assert benchmark.candidate.peak is not None
    assert closing(result).ok


def test_what_is_not_claimed_is_left_out_with_the_reason(posers: Posers) -> None:
    plain = replace(FORWARD, is_causal=False)
    asked = [FORWARD, replace(plain, work="masked"), replace(plain, work="padded")]
    result = posers.run("unmasked", "base", *asked, replace(FORWARD, work="backward"))
    assert [b.workload.work for b in result.benchmarks] == ["forward"]
    reasons = {out.workload.work: out.reason for out in result.left_out}
    assert reasons["masked"].endswith("unmasked does not claim float-mask")
    assert reasons["padded"].endswith("unmasked does not claim bool-mask")
    assert reasons["backward"].count("does not claim gradients") == 2
    with pytest.raises(ValueError, match="nothing can be asked"):
        posers.run("unmasked", "base", replace(plain, work="masked"))


def test_a_kernel_and_a_module_are_not_compared(posers: Posers) -> None:
    with pytest.raises(ValueError, match="is a module and"):
        run("numpy-reference", posers.target("base"), machine=MACHINE)


def test_results_survive_a_file(posers: Posers) -> None:
    result = posers.run("slow", "base", FORWARD, replace(FORWARD, work="grouped", Hkv=2))
    data = json.loads(json.dumps(result.to_json()))
    assert Benchmarks.from_json(data) == result
    assert result.left_out == (LeftOut(replace(FORWARD, work="grouped", Hkv=2), result.left_out[0].reason),)
    del data["left_out"]
    assert Benchmarks.from_json(data) == replace(result, left_out=())


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize(
    "target",
    ["torch-sdpa", "attn-flash-kernel", "attn-flash", "numpy-reference"],
)
def test_every_work_is_posed_and_judged(target: str, work: Any) -> None:
    found, _ = subject(target)
    workload = replace(
        FORWARD, work=work, kind=found.kind, S={"cross": 10, "decode": 9, "cross-decode": 9}.get(work, 6)
    )
    if work in ("cross", *CACHED):
        workload = replace(workload, is_causal=False, T=6 if work == "cross" else 1)
    if work == "grouped":
        workload = replace(workload, Hkv=2)
    if work in ("masked", "padded"):
        workload = replace(workload, is_causal=False)
    if missing(workload, found) is not None:
        assert (target, work) in {
            ("attn-flash", "grouped"),
            ("numpy-reference", "grouped"),
            ("numpy-reference", "backward"),
        }
        return
    posed = pose(found, workload, np.random.default_rng(0))
    posed.repeat(2)
    samples = []
    for _ in range(3):  # a cache begins anew in between
        posed.refresh()
        with found.border.grad_mode("on" if work == "backward" and found.border.differentiates else "off"):
            posed.run()
        samples.append(posed.sample())
    assert all(0 <= posed.judge(sample) <= 1 for sample in samples)
    for name in samples[0].results:
        spoiled = {**samples[0].results, name: samples[0].results[name] * 1.01}
        with pytest.raises(Failed, match="is wrong"):
            posed.judge(replace(samples[0], results=spoiled))
    for sample, other in itertools.pairwise(samples):
        with pytest.raises(Failed, match="is wrong"):
            posed.judge(replace(sample, results=other.results))


def test_of_a_large_batch_the_gradients_are_judged_in_one_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posed_module, "MOST_SCORES", 0)
    found, _ = subject("attn-flash")
    posed = pose(found, replace(MODULE, work="backward"), np.random.default_rng(0))
    posed.refresh()
    posed.run()
    sample = posed.sample()
    assert 0 < posed.judge(sample) <= 1
    with pytest.raises(Failed, match="the gradient of x is wrong"):
        posed.judge(replace(sample, results={**sample.results, "x": sample.results["x"] * 1.01}))
    assert isinstance(found, ModuleSubject)
    build = type(found.implementation).build

    def halved(*arguments: Any, **more: Any) -> Any:
        handle = build(*arguments, **more)
        for parameter in handle.parameters():
            parameter.register_hook(lambda gradient: gradient / 2)
        return handle

    monkeypatch.setattr(type(found.implementation), "build", halved)
    posed = pose(found, replace(MODULE, work="backward"), np.random.default_rng(0))
    posed.refresh()
    posed.run()
    with pytest.raises(Failed, match=r"the gradient of query\.weight is wrong"):
        posed.judge(posed.sample())


def test_a_silent_fallback_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metered: Metered) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    file = tmp_path / "falling.py"
    file.write_text(
        "import metered, torch\n"
        "def attention(q, k, v, mask=None, is_causal=False):\n"
        "    metered.ticks += 1_000_000\n"
        "    metered.calls += q.shape[2] == 6\n"
        "    if metered.calls < 40:\n"
        "        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)\n"
        "    weights = (q @ k.mT / q.shape[3] ** 0.5).softmax(-1)\n"
        "    return weights @ v\n"
    )
    posers = Posers(file, metered)
    workload = replace(FORWARD, is_causal=False)
    problem = one(posers.run("attention", None, workload)).candidate.problem
    assert problem is not None
    assert problem.startswith("other kernels ran in the end than in the beginning")
    metered.calls = -(10**6)
    benchmark = one(posers.run("attention", None, workload, rule=replace(runs.Rule(), looks=(2,))))
    assert benchmark.candidate.kernels == ("_scaled_dot_product_flash_attention_for_cpu",)
    assert benchmark.candidate.problem is None


def test_work_in_other_threads_is_not_missed(metered: Metered) -> None:
    def half() -> int:
        return metered.ticks // 2

    def all_() -> int:
        return metered.ticks

    clock = HostClock("thread", half, all_, all_)

    def call() -> None:
        metered.ticks += 10_000_000

    clock.time(call)
    (reading,) = clock.read()
    assert (reading.seconds, reading.wall, reading.others) == pytest.approx((0.005, 0.01, 0.005))
    assert clock.read() == []


def test_the_clock_goes_by_the_frameworks() -> None:
    assert clock_for({"numpy", "torch"}, "cpu").name == "thread"
    assert clock_for({"jax", "torch"}, "cpu").name == "wall"
    with pytest.raises(ValueError, match="on cuda PyTorch alone is timed, not numpy"):
        clock_for({"numpy", "torch"}, "cuda")


class Device:
    """A CUDA device that takes 100 us for a write and 50 for a call, and a host that takes 250 to queue a call."""

    def __init__(self) -> None:
        self.host = self.free = 0.0

    def perf_counter(self) -> float:
        return self.host

    def synchronize(self) -> None:
        self.host = max(self.host, self.free)

    def does(self, seconds: float) -> None:
        """Queue work."""
        self.free = max(self.free, self.host) + seconds

    def run(self) -> None:
        self.host += 250e-6
        self.does(50e-6)

    def waiting(self) -> None:
        self.synchronize()
        self.run()


class Event:
    """At what time the device comes by."""

    device: Device

    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.device.does(0.0)
        self.at = self.device.free

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


def test_the_device_clock_does_not_measure_the_host_but_for_calls_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    device = Device()
    flushed = SimpleNamespace(zero_=lambda: device.does(100e-6))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: flushed)
    monkeypatch.setattr(torch.cuda, "synchronize", device.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", type("Here", (Event,), {"device": device}))
    monkeypatch.setattr(clocks.time, "perf_counter", device.perf_counter)
    clock = CudaClock()
    for call, seconds in ((device.run, 50e-6), (device.waiting, 300e-6)):
        for _ in range(2):  # after the first the clock knows how long it takes to queue
            clock.time(call)
            (reading,) = clock.read()
        assert reading.seconds == pytest.approx(seconds)


def test_buffers_hold_other_numbers_in_every_round() -> None:
    rng = np.random.default_rng(0)
    made = pool(NumpyBorder(), "cpu", {"q": (2, 3), "k": (4, 3)}, "float32", rng)
    buffers: dict[str, Any] = {"q": np.zeros((2, 3), np.float32), "k": np.zeros((4, 3), np.float32)}
    seen = []
    for _ in range(2):
        drawn = made.draw(rng)
        made.fill(buffers, drawn)
        assert all(np.array_equal(buffers[name], made.array(drawn, name)) for name in "qk")
        seen.append(buffers["q"].copy())
    assert not np.array_equal(*seen)


def test_the_spread_of_few_times_is_unknown_and_that_of_many_small() -> None:
    assert spread([1.0] * 6) == float("inf")
    assert spread([1.0] * 12) == 0.0
    assert spread([1.0, 3.0] * 10) == pytest.approx(0.5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("kind", ["kernel", "module"])
def test_the_grids_hold_every_work_and_no_workload_twice(kind: Any, device: str) -> None:
    found = grid(kind, device)
    assert {w.work for w in found} == set(WORKS) - ({"cross-decode"} if kind == "kernel" else set())
    assert len({(w.name, w.dtype) for w in found}) == len(found)
    assert all((w.kind, w.device) == (kind, device) for w in found)
    assert all(w.T * w.S <= 4096**2 for w in found if w.work == "backward")  # a head is judged whole
    assert {w.dtype for w in grid(kind, device, ("float64",))} == {"float64"}
    assert {w.work for w in grid(kind, device, (), ["decode"])} == {"decode"}
    with pytest.raises(ValueError, match="unknown work 'decoding'; did you mean"):
        grid(kind, device, (), ["decoding"])


def test_machines_match_by_names_and_by_what_they_can_do() -> None:
    same = {**MACHINE, "ceilings": {**MACHINE["ceilings"], "read": 1.1e10}}  # type: ignore[dict-item]
    assert machine.match(MACHINE, same) is None
    assert machine.match(MACHINE, {**MACHINE, "cpu": "y"}) == "the CPU differs: x and y"
    assert machine.match(MACHINE, {**MACHINE, "device": "cuda"}) == "the device differs: cpu and cuda"
    slower = {**MACHINE, "ceilings": {**MACHINE["ceilings"], "read": 0.8e10}}  # type: ignore[dict-item]
    assert "bytes read per second was measured as 1e+10 and 8e+09" in (machine.match(MACHINE, slower) or "")
    less = {**MACHINE, "ceilings": {"gemm": {}, "read": 1e10, "copy": 1e10}}
    assert "float32 GEMM flop/s was measured on one machine only" in (machine.match(less, MACHINE) or "")


def test_a_fingerprint_is_measured_and_matches_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ENOUGH", 0.0)
    found = machine.fingerprint("cpu", torch=False)
    assert json.loads(json.dumps(found)) == found
    assert machine.match(found, found) is None
    assert found["ceilings"]["gemm"]["float32"] > 1e8
    assert found["ceilings"]["read"] > 1e8


def test_shares_are_of_what_was_measured() -> None:
    measurement = Measurement("it", None, (1e-3,))
    found = machine.shares(measurement, FORWARD, MACHINE)
    assert found["compute"] == pytest.approx(FORWARD.flops / 1e-3 / 1e12)
    assert found["memory"] == pytest.approx(FORWARD.bytes / 1e-3 / 1e10)
    assert machine.shares(replace(measurement, problem="wrong"), FORWARD, MACHINE) == {}
    assert machine.shares(measurement, FORWARD, {}) == {}


def bench(
    posers: Posers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(runs, "clock_for", posers.clock)
    monkeypatch.setattr(runs.machines, "fingerprint", lambda device, torch: MACHINE)
    monkeypatch.setattr(runs, "grid", lambda *_: [FORWARD, replace(FORWARD, work="backward")])
    status = main(["bench", *arguments])
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), err


def test_the_command_line(
    posers: Posers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    against = ["--vs", posers.target("base")]
    status, out, _ = bench(
        posers, monkeypatch, capsys, posers.target("harmless"), *against, "--json", str(path)
    )
    assert status == 0
    assert "1.010 [1.005, 1.015]" in out
    assert "does not claim gradients" in out
    assert "is not slower than" in out
    assert one(Benchmarks.from_json(json.loads(path.read_text()))).candidate.target.endswith("harmless")
    status, out, _ = bench(posers, monkeypatch, capsys, posers.target("slow"), *against)
    assert (status, "regressed" in out, "is slower than" in out) == (1, True, True)
    status, out, _ = bench(posers, monkeypatch, capsys, posers.target("noisy"), *against, "--quiet")
    assert (status, "which is no pass" in out, "1.0" in out.split("inconclusive")[0]) == (1, True, False)
    status, out, _ = bench(posers, monkeypatch, capsys, posers.target("wrong"), *against)
    assert (status, "Does not count" in out) == (1, True)
    status, out, _ = bench(posers, monkeypatch, capsys, posers.target("slow"))
    assert (status, "1 workloads measured" in out) == (0, True)


def test_the_command_line_says_what_cannot_be_measured(
    posers: Posers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = bench(posers, monkeypatch, capsys, posers.target("nothing"))
    assert (status, "cannot measure" in err, "has no 'nothing'" in err) == (2, True, True)
    status, _, err = bench(posers, monkeypatch, capsys, "numpy-reference", "--vs", posers.target("base"))
    assert (status, "do not do the same work" in err) == (2, True)
    status, _, err = bench(posers, monkeypatch, capsys, posers.target("base"), "--json", "/no/where/x.json")
    assert (status, "there is no folder" in err) == (2, True)


def test_a_target_without_arrays_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "textual.py"
    file.write_text("def attention(q, k, v, mask=None, is_causal=False):\n    return 'text'\n")
    with pytest.raises(TargetError, match="got no answer"):
        run(f"{file}:attention", machine=MACHINE, narrowing=Narrowing(dtypes=("float32",)))


def test_verdicts_of_runs_by_their_worst_part() -> None:
    def made(*verdicts: str) -> Benchmarks:
        benchmarks = tuple(
            Benchmark(
                FORWARD,
                "thread",
                Measurement("a", None),
                Measurement("b", None),
                Decision(verdict, 1.03, 1.0, 1.06, 0.001, 320),  # type: ignore[arg-type]
            )
            for verdict in verdicts
        )
        canary = Decision("fine", 1.0, 0.99, 1.01, 0.001, 20)
        return Benchmarks("a", "b", 0, runs.Rule(), {}, {}, "0", 1.0, canary, benchmarks)

    assert closing(made("fine", "fine")).ok
    assert closing(made("inconclusive", "fine")).sentence.startswith(
        "1 of 2 workloads inconclusive, which is no pass"
    )
    assert "close to what is tolerated" in closing(made("inconclusive")).sentence
    assert closing(made("regressed", "inconclusive")).sentence.endswith("in 1 of 2 workloads, 1 inconclusive")
    assert closing(replace(made("fine"), canary=None)).sentence.startswith("undecided")
    assert not any(closing(made("fine", worst)).ok for worst in ("inconclusive", "regressed"))


FREEING = """
import resource
import sys

import numpy as np

from attn_conformance.bench.clocks import quiet

faults = []
with quiet({"numpy"}, "cpu"):
    for _ in range(100):
        results = [np.ones(160_000, np.float32) for _ in range(2)]
        del results
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[10])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of this C library")
def test_freed_memory_is_kept() -> None:
    """Else each result would come on new pages, about 300 faults a round here."""
    said = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, check=True).stdout
    assert int(said) < 90


FLASH = "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, cutlass::half_t"


def test_kernels_have_plain_names_unless_these_would_not_tell_them_apart() -> None:
    cudnn = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64_4x1x1_cga1x1x1_kernel0_0"
    where = "void at::native::elementwise_kernel<128, 4, at::native::(anonymous namespace)::where_kernel_impl"
    fmha = "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloat16_t"
    hidden = "(anonymous namespace)::softmax<float>"
    for name, said in (
        (FLASH, "flash_fwd_kernel"),
        (cudnn, "cudnn_sdpa_sm90_flash_fprop_wgmma_f16"),
        (where, "elementwise_kernel"),
        (fmha, "fmha_cutlassF_bf16_aligned_64x128_rf_sm80"),
        (hidden, "softmax"),
        ("_scaled_dot_product_flash_attention_for_cpu", "flash_attention"),
        ("_softmax", "_softmax"),
        ("<lambda>", "<lambda>"),
    ):
        assert plain([name, name]) == (said,)
    other = FLASH.replace("64, 128", "96, 128")
    assert apart([FLASH], [FLASH]) == (("flash_fwd_kernel",), ("flash_fwd_kernel",))
    assert apart([FLASH], [other]) == ((FLASH,), (other,))
    assert apart([FLASH], [cudnn]) == (("flash_fwd_kernel",), ("cudnn_sdpa_sm90_flash_fprop_wgmma_f16",))


def test_kernels_of_one_family_differ_in_tiles_alone() -> None:
    nvjet = "nvjet_sm90_tst_256x144_64x4_2x1_v_bz_coopA_TNT"
    assert families([FLASH, nvjet]) == {"flash_fwd_kernel", "nvjet_sm90_tst"}
    assert families([nvjet.replace("256x144", "64x8")]) == families([nvjet])
    assert families(["fmha_cutlassF_bf16_aligned_64x128_rf_sm80"]) != families(
        ["cutlass_80_tensorop_bf16_s16816gemm_64x128"]
    )
