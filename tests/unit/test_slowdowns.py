"""Slowdowns: right results, beside a right twin, and a self-test that tells caught from missed; by costs, not time."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_conformance import slowdowns as registry
from attn_conformance.bench import run as runs
from attn_conformance.bench.clocks import Clock, HostClock
from attn_conformance.bench.posed import pose
from attn_conformance.bench.workloads import Workload
from attn_conformance.cli import main
from attn_conformance.defects import defects
from attn_conformance.judge import Failed
from attn_conformance.loading import TargetError, load
from attn_conformance.mutants import mutants
from attn_conformance.selftest import slowdowns as selftest
from attn_conformance.slowdowns import Slowdown, register, slowdowns
from attn_conformance.targets import subject
from attn_reference import attention
from attn_reference.claims import Claims

SMALL = Workload("forward", 1, 2, 4, 4, 8, "float32")
NAMES = sorted(slowdowns())


class Costs:
    """Planted slowdowns, whose costs stand for time."""

    def __init__(self) -> None:
        self.ticks = 0
        self.opened = 0
        self.rng = np.random.default_rng(0)

    def call(
        self, q: Any, k: Any, v: Any, mask: Any = None, is_causal: bool = False, *, cost: float, noise: float
    ) -> Any:
        """It spends a cost, with noise."""
        self.ticks += int(1e6 * cost * np.exp(self.rng.normal(0, noise)))
        return attention(q, k, v, mask=mask, is_causal=is_causal)

    def target(self, cost: float, noise: float = 0) -> Any:
        return partial(self.call, cost=cost, noise=noise)

    def clock(self, borders: Collection[str], device: str) -> Clock:
        def ticks() -> int:
            return self.ticks

        return HostClock("thread", ticks, ticks, ticks)


class Unlike:
    """Of two copies opened after each other, the second costs more."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs

    def __call__(self, q: Any, k: Any, v: Any, mask: Any = None, is_causal: bool = False) -> Any:
        return self.costs.target(1)(q, k, v, mask, is_causal)

    def fresh(self) -> Any:
        self.costs.opened += 1
        return self.costs.target(1 + 0.1 * (self.costs.opened % 2))


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Costs]:
    """Registers four for one test: of 8 % and of 1 %, one beside a twin unlike itself, one amid noise."""
    costs = Costs()
    claims = Claims(dtypes=("float32",), features=frozenset({"causal", "cross"}))
    workloads = {"cpu": SMALL, "cuda": replace(SMALL, device="cuda")}

    def planted(name: str, target: Any, twin: Any) -> None:
        monkeypatch.setitem(registry._registry, name, Slowdown(name, target, twin, claims, workloads))

    planted("planted-8", costs.target(1.08), costs.target(1))
    planted("planted-1", costs.target(1.01), costs.target(1))
    planted("planted-unlike", costs.target(1.5), Unlike(costs))
    planted("planted-noise", costs.target(1.5, 0.4), costs.target(1, 0.4))
    monkeypatch.setattr(runs, "clock_for", costs.clock)
    monkeypatch.setattr(selftest.machines, "fingerprint", lambda device: {"device": device})
    return lambda: costs


def outcome(name: str, **more: Any) -> selftest.Outcome:
    (found,) = selftest.run(only=[name], machine={}, **more).outcomes
    return found


def test_what_is_slower_by_more_than_the_margin_is_caught(plant: Callable[..., Costs]) -> None:
    found = outcome("planted-8")
    assert (found.verdict, found.tries, found.problem) == ("caught", 1, None)
    assert found.decision is not None
    assert found.canary is not None
    assert found.decision.ratio == pytest.approx(1.08, rel=1e-5)
    assert found.decision.rounds == found.canary.rounds == 12
    assert found.canary.ratio == 1


def test_what_is_found_equal_is_missed_and_not_asked_again(plant: Callable[..., Costs]) -> None:
    found = outcome("planted-1")
    assert (found.verdict, found.tries) == ("missed", 1)


def test_a_twin_slower_than_itself_is_an_alarm(plant: Callable[..., Costs]) -> None:
    found = outcome("planted-unlike")
    assert (found.verdict, found.tries) == ("alarm", 1)
    plant().opened = 0
    assert not selftest.run(only=["planted-8", "planted-unlike"], machine={}).ok


def test_noise_is_asked_again_and_no_pass(plant: Callable[..., Costs]) -> None:
    rule = replace(runs.Rule(), looks=(12, 20))
    found = outcome("planted-noise", rule=rule)
    assert (found.verdict, found.tries) == ("undecided", selftest.TRIES)
    assert not selftest.run(only=["planted-noise"], machine={}, rule=rule).ok


def test_the_command_line(
    plant: Callable[..., Costs], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "slowdowns.json"
    assert main(["selftest", "slowdowns", "--only", "planted-8", "--json", str(path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1.080 [1.075, 1.085]" in out
    assert "1 of 1 slowdowns caught, 0 missed, 0 undecided; 0 right twins" in out
    assert "Not run: any on CUDA" in out
    data = json.loads(path.read_text())
    assert data["totals"] == {"caught": 1, "missed": 0, "alarm": 0, "undecided": 0}
    assert data["outcomes"][0]["verdict"] == "caught"
    assert data["machine"] == {"device": "cpu"}
    assert main(["selftest", "slowdowns", "--only", "planted-8,planted-1", "--quiet"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "planted-1: missed" in out
    assert "1.080" not in out
    assert main(["selftest", "slowdowns", "--only", "planted-9"]) == 2
    assert "did you mean planted-8" in capsys.readouterr().err


def test_names_are_taken_once_and_lies_are_sentences() -> None:
    assert not slowdowns().keys() & (mutants().keys() | defects().keys())
    for slowdown in slowdowns().values():
        assert slowdown.lie.endswith(".")
        assert set(slowdown.workloads) == {"cpu", "cuda"}
        assert all(w.device == device for device, w in slowdown.workloads.items())
    with pytest.raises(ValueError, match="two slowdowns are called"):
        register(slowdowns()[NAMES[0]])


def test_they_are_loaded_by_name() -> None:
    assert load("slow:scores-held").function is slowdowns()["scores-held"].target
    assert load("twin:scores-held").function is slowdowns()["scores-held"].twin
    with pytest.raises(
        TargetError, match=r"there is no slow 'scores-hold' among .*; did you mean scores-held"
    ):
        load("slow:scores-hold")


@pytest.mark.parametrize("kind", ["slow", "twin"])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_right(name: str, kind: str) -> None:
    found, _ = subject(f"{kind}:{name}")
    workload = slowdowns()[name].workloads["cpu"]
    S = 9 if workload.T == 1 else 6
    small = replace(workload, B=2, T=min(6, workload.T), S=S, D=8)
    posed = pose(found, small, np.random.default_rng(0))
    samples = []
    for _ in range(2):
        posed.refresh()
        with found.border.grad_mode("off"):
            posed.run()
        samples.append(posed.sample())
    assert all(0 <= posed.judge(sample) <= 1 for sample in samples)
    with pytest.raises(Failed, match="is wrong"):
        posed.judge(replace(samples[0], results=samples[1].results))


def test_a_buffer_keeps_what_it_held() -> None:
    torch = pytest.importorskip("torch")
    from attn_conformance.slowdowns.modules import Buffer

    buffer, parts = Buffer(2), [torch.randn(1, 2, n, 3) for n in (5, 1, 1, 7, 1)]
    for n, part in enumerate(parts, 1):
        assert torch.equal(buffer.appended(part), torch.cat(parts[:n], 2))
