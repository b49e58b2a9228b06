"""Cliffs without real time: planted ones are found and made small, smooth costs give none, scripts show them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attn_conformance.bench import cliffs
from attn_conformance.bench.cliff_script import script
from attn_conformance.bench.cliffs import (
    KINDS,
    SHRINKS,
    Cliff,
    Cliffs,
    Kind,
    Search,
    Step,
    run,
    smallest,
    steps,
)
from attn_conformance.bench.clocks import Clock, HostClock
from attn_conformance.bench.rule import Decision
from attn_conformance.bench.workloads import Workload
from attn_conformance.cli import main
from attn_conformance.subject import Subject
from attn_conformance.targets import Narrowing, subject

FORWARD = Workload("forward", 1, 4, 64, 64, 64, "float32")
STEEP = Decision("regressed", 3.0, 2.9, 3.1, 0.01, 12)

SOURCE = """
import metered
import torch


def attention(q, k, v, mask=None, is_causal=False):
    metered.ticks += int(1e3 * metered.cost(q.shape[2], k.shape[2], q.shape[3], q.is_contiguous()))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)


def wrong(q, k, v, mask=None, is_causal=False):
    return attention(q, k, v, mask, is_causal) * 1.01
"""

Cost = Callable[[int, int, int, bool], float]


def smooth(T: int, S: int, D: int, contiguous: bool) -> float:
    return T * S * D


class Metered(ModuleType):
    """What the target of a test adds its costs to; cost: of T, S, D and contiguity."""

    ticks = 0
    cost: Any = None


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> Metered:
    module = Metered("metered")
    monkeypatch.setitem(sys.modules, "metered", module)
    return module


def ticking(metered: Metered) -> Callable[[Collection[str], str], Clock]:
    def ticks() -> int:
        return metered.ticks

    return lambda borders, device: HostClock("thread", ticks, ticks, ticks)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    file = tmp_path / "steep_targets.py"
    file.write_text(SOURCE)
    return f"{file}:attention"


class Costs(Search):
    """A search by costs alone; none is measured twice."""

    def __init__(self, steep: Callable[[Step], bool]) -> None:
        self.steep = steep
        self.known: dict[Step, Cliff | None] = {}
        self.left: int | None = None

    def _measured(self, step: Step) -> Cliff | None:
        assert step not in self.known
        return Cliff(step, STEEP, ((), ())) if self.steep(step) else None


def kernel() -> Subject:
    return subject("torch-sdpa")[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("kind", "steep", "least"),
    [
        ("length", lambda w: w.T % 64 == 0, {"T": 64, "S": 64, "D": 32}),
        ("length", lambda w: w.T >= 128 and w.T % 64 == 0 and w.D >= 64, {"T": 128, "D": 64}),
        ("keys", lambda w: w.S % 64 == 0, {"T": 1, "S": 256, "D": 32}),
        ("head-size", lambda w: w.D == 64, {"T": 64, "D": 64}),
        ("strides", lambda w: True, {"T": 64, "D": 32}),
    ],
)
def test_planted_cliffs_are_found_in_few_examples_and_shrunk(
    kind: Kind, steep: Callable[[Workload], bool], least: dict[str, int], seed: int
) -> None:
    search = Costs(lambda step: steep(step.workload))
    found = smallest(search, steps(kind, kernel(), "float32", "cpu"), 20, seed)
    assert found is not None
    assert {name: getattr(found.step.workload, name) for name in least} == least
    assert len(search.known) <= 20 + SHRINKS


def test_shrinking_ends_though_everything_is_steep_and_nothing_is_found_where_nothing_is() -> None:
    every = Costs(lambda step: step.workload.T > 100)
    found = smallest(every, steps("length", kernel(), "float32", "cpu"), 6, 0)
    assert found is not None
    assert sum(cliff is not None for cliff in every.known.values()) <= SHRINKS + 1
    assert found == every.known[found.step]
    none = Costs(lambda step: False)
    assert smallest(none, steps("length", kernel(), "float32", "cpu"), 6, 0) is None
    assert 1 <= len(none.known) <= 6


def searched(target: str, metered: Metered, cost: Cost, *kinds: Kind, **more: Any) -> Cliffs:
    metered.cost = cost
    return run(target, kinds=kinds or KINDS, clock=ticking(metered), **{"examples": 2, **more})


def test_costs_in_proportion_to_the_work_give_no_cliff(target: str, metered: Metered) -> None:
    result = searched(target, metered, smooth)
    assert (result.found, result.problems, result.undecided) == ((), (), 0)
    assert result.ok
    assert result.measured == 8


@pytest.mark.parametrize(
    ("kind", "cost", "ratio"),
    [
        ("head-size", lambda T, S, D, c: T * S * D * (1 if D % 32 == 0 else 2), 2),
        ("strides", lambda T, S, D, c: T * S * D * (1 if c else 3), 3),
        ("keys", lambda T, S, D, c: 1000 * S * D * (1 if S % 64 == 0 else 1.8), 1.8),
    ],
)
def test_planted_costs_are_measured_for_each_unit_of_work(
    target: str, metered: Metered, kind: Kind, cost: Cost, ratio: float
) -> None:
    result = searched(target, metered, cost, kind, examples=6)
    assert not result.ok
    (found,) = result.found
    assert found.step.kind == kind
    assert found.ratio == pytest.approx(ratio, rel=0.02)
    assert found.step.workload.D in (32, 64)
    again = searched(target, metered, cost, kind, examples=6)
    assert again.found == result.found  # the same seed gives the same search


def test_less_than_the_factor_is_none(target: str, metered: Metered) -> None:
    assert searched(target, metered, lambda T, S, D, c: T * S * D * (1 if c else 1.4), "strides").ok
    assert not searched(
        target, metered, lambda T, S, D, c: T * S * D * (1 if c else 1.4), "strides", factor=1.3
    ).ok


def test_wrong_results_are_told_and_no_pass(target: str, metered: Metered) -> None:
    result = searched(target.replace(":attention", ":wrong"), metered, smooth, "length")
    assert not result.ok
    assert "the output of element 0" in result.problems[0]


def test_what_cannot_be_asked_is_not() -> None:
    module, _ = subject("attn-flash")
    narrow, _ = subject("torch-sdpa", Narrowing(head_sizes=(64, 128)))
    pair, _ = subject("torch-sdpa", Narrowing(head_sizes=(64, 72)))
    assert "no strides" in (cliffs.unasked("strides", module, "float32", "cpu") or "")
    assert "no head sizes 8 apart" in (cliffs.unasked("head-size", narrow, "float32", "cpu") or "")
    assert cliffs.unasked("head-size", pair, "float32", "cpu") is None
    found = smallest(Costs(lambda step: True), steps("head-size", pair, "float32", "cpu"), 3, 0)
    assert found is not None
    assert (found.step.workload.D, found.step.neighbour.D) == (64, 72)
    with pytest.raises(ValueError, match="nothing can be asked"):
        run("attn-flash", kinds=("strides",))


def test_the_work_of_neighbours() -> None:
    assert Step("length", FORWARD).more == pytest.approx((65 / 64) ** 2)
    assert Step("head-size", FORWARD).more == pytest.approx(72 / 64)
    assert Step("strides", FORWARD).more == 1
    decode = replace(FORWARD, work="decode", T=1, S=256)
    assert Step("keys", decode).more == pytest.approx(258 / 257)  # queries and results are bytes, too


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torch-sdpa", "length"),
        ("torch-sdpa", "strides"),
        ("numpy-reference-kernel", "keys"),
        ("attn-flash", "keys"),
        ("numpy-reference", "length"),
        ("slow:scores-held", "head-size"),
    ],
)
def test_scripts_stand_alone_and_are_short(name: str, kind: Kind, tmp_path: Path) -> None:
    found, _ = subject(name)
    work = {"work": "decode", "T": 1, "is_causal": found.kind == "module"} if kind == "keys" else {}
    step = Step(kind, replace(FORWARD, kind=found.kind, **work))  # type: ignore[arg-type]
    for factor, status in ((1000.0, 0), (0.001, 1)):  # whatever the time is
        text = script(Cliff(step, STEEP, ((), ())), found, factor)
        assert len(text.splitlines()) < 40
        assert step.describe() in text
        file = tmp_path / "cliff.py"
        file.write_text(text.replace("range(30)", "range(3)"))
        done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (status, "")
        assert "times the time for each unit of work" in done.stdout


def test_the_command_line(
    target: str,
    metered: Metered,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(cliffs, "clock_for", ticking(metered))
    metered.cost = lambda T, S, D, c: T * S * D * (1 if c else 3)
    path = tmp_path / "cliffs.json"
    assert main(["bench", target, "--cliffs", "--examples", "1", "--json", str(path)]) == 1
    out = capsys.readouterr().out
    assert "1 cliffs of 1.5 times or more" in " ".join(out.split())
    (found,) = json.loads(path.read_text())["found"]
    assert found["script"] in out  # no line is broken
    metered.cost = smooth
    assert main(["bench", target, "--cliffs", "--examples", "1"]) == 0
    assert "no cliffs" in capsys.readouterr().out
    assert main(["bench", target, "--cliffs", "--laws"]) == 2
    capsys.readouterr()
    for option, what in (
        (["--examples", "2"], "--examples goes with --cliffs"),
        (["--strict"], "--strict goes with --laws"),
    ):
        assert main(["bench", target, *option]) == 2
        assert what in capsys.readouterr().err
