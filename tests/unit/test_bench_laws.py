"""Laws without real time: what growth is, what only looks like it, and what is said of a law that does not hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from attn_conformance.bench import lawful
from attn_conformance.bench.clocks import Clock, HostClock
from attn_conformance.bench.ladder import Finding
from attn_conformance.bench.lawful import Laws, run
from attn_conformance.bench.laws import LINEAR, QUADRATIC, Law, _causal, _growth, _memory, laws
from attn_conformance.bench.workloads import Workload
from attn_conformance.cli import main
from attn_conformance.loading import TargetError
from attn_conformance.targets import subject

FORWARD = Workload("forward", 1, 2, 32, 32, 8, "float32")
LENGTH = _growth("length", "forward time is at most about quadratic in T = S", FORWARD, "T", QUADRATIC)
DECODE = _growth("decode", "decode time is at most linear", replace(FORWARD, work="decode", T=1), "S", LINEAR)
CAUSAL = _causal(FORWARD)

SOURCE = """
import metered

from attn_reference import attention


def metered_attention(q, k, v, mask=None, is_causal=False):
    metered.ticks += int(1e6 * metered.cost(q.shape[2], k.shape[2], is_causal))
    return attention(q, k, v, mask=mask, is_causal=is_causal)


def wrong(q, k, v, mask=None, is_causal=False):
    return metered_attention(q, k, v, mask, is_causal) * 1.01


def uncausal(q, k, v, mask=None):
    return metered_attention(q, k, v, mask)
"""

Cost = Callable[[int, int, bool], float]
Hold = Callable[..., Laws]


class Metered(ModuleType):
    """What the target of a test adds its costs to; cost: of T, S and causality."""

    ticks = 0
    cost: Any = None


def ticking(metered: Metered) -> Callable[[Collection[str], str], Clock]:
    def ticks() -> int:
        return metered.ticks

    return lambda borders, device: HostClock("thread", ticks, ticks, ticks)


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> Metered:
    module = Metered("metered")
    monkeypatch.setitem(sys.modules, "metered", module)
    return module


@pytest.fixture
def hold(tmp_path: Path, metered: Metered, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Holds laws against a target whose costs are given."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    file = tmp_path / "lawful_targets.py"
    file.write_text(SOURCE)

    def held(cost: Cost, *asked: Law, target: str = "metered_attention") -> Laws:
        metered.cost = cost
        clock = ticking(metered)
        return run(f"{file}:{target}", clock=clock, asked=lambda *_: list(asked))

    return held


def one(result: Laws) -> Finding:
    (finding,) = result.findings
    return finding


@pytest.mark.parametrize(
    ("cost", "verdict"),
    [
        (lambda T, S, c: 0.01 * T**2, "holds"),
        (lambda T, S, c: 0.01 * T**2 + 1, "holds"),  # as much as a call costs anyway
        (lambda T, S, c: 0.01 * T, "holds"),
        (lambda T, S, c: 0.01 * T**3, "broken"),
        (lambda T, S, c: 0.01 * T**3 + 2, "broken"),
        (lambda T, S, c: 0.01 * T**2 * (3 if T == 32 else 1), "holds"),  # a cache left behind, no growth
        (lambda T, S, c: 0.01 * T**2 * (1.5 if T >= 16 else 1), "holds"),
    ],
)
def test_growth_is_told_from_fixed_costs_and_from_steps(hold: Hold, cost: Cost, verdict: str) -> None:
    finding = one(hold(cost, LENGTH))
    assert finding.verdict == verdict
    assert finding.rounds == 14  # there is no noise
    assert finding.low == finding.high == pytest.approx(finding.value)
    assert [size for size, _ in finding.points] == [w.name for w in LENGTH.workloads]
    assert [seconds for _, seconds in finding.points] == pytest.approx(
        [1e-3 * cost(T, T, False) for T in (2, 4, 8, 16, 32)], rel=1e-3
    )


def test_the_exponent_of_pure_powers_is_exact(hold: Hold) -> None:
    assert one(hold(lambda T, S, c: 0.1 * S, DECODE)).value == pytest.approx(1)
    finding = one(hold(lambda T, S, c: 0.01 * S**2, DECODE))
    assert finding.value == pytest.approx(2)
    assert finding.sentence == (
        "decode time is at most linear: time grows as S^2.00 [2.00, 2.00] from S = 8 to 32, at most 1.5 was asked: "
        "broken: it grows faster"
    )


def test_noise_leaves_open_what_is_close_and_not_what_is_far(hold: Hold) -> None:
    rng = np.random.default_rng(0)

    def noisy(power: float) -> Cost:
        return lambda T, S, c: 0.1 * S**power * float(np.exp(rng.normal(0, 0.2)))

    close = one(hold(noisy(LINEAR + 0.1), DECODE))
    assert close.verdict == "inconclusive"
    assert close.rounds == 80
    assert "too close to the limit or too noisy" in close.sentence
    assert close.low is not None
    assert close.high is not None
    assert close.low < LINEAR < close.high
    assert one(hold(noisy(0.9), DECODE)).verdict == "holds"
    assert one(hold(noisy(2.5), DECODE)).verdict == "broken"


def test_a_should_is_told_and_fails_only_where_that_is_asked(hold: Hold) -> None:
    half = hold(lambda T, S, c: 0.5 if c else 1, CAUSAL)
    assert one(half).value == pytest.approx(0.5)
    assert half.ok(strict=True)
    whole = hold(lambda T, S, c: 1, CAUSAL, LENGTH)
    assert whole.findings[0].verdict == "broken"
    assert "causal skipping is not used" in whole.findings[0].sentence
    assert whole.ok()
    assert not whole.ok(strict=True)
    assert one(hold(lambda T, S, c: 0.1 if c else 1, CAUSAL)).verdict == "broken"


def test_what_is_inconclusive_or_wrong_is_no_pass(hold: Hold) -> None:
    wrong = hold(lambda T, S, c: T, LENGTH, target="wrong")
    assert not wrong.ok()
    assert one(wrong).value is None
    assert "not measured, the output of element" in one(wrong).sentence


def test_what_is_not_claimed_is_left_out(hold: Hold) -> None:
    result = hold(lambda T, S, c: T, LENGTH, CAUSAL, target="uncausal")
    assert [finding.law.name for finding in result.findings] == ["length"]
    ((name, reason),) = result.left_out
    assert name == "causal"
    assert "does not claim causal" in reason
    assert json.loads(json.dumps(result.to_json()))["left_out"] == {"causal": reason}


def test_peaks_tell_held_scores_from_none() -> None:
    largest = replace(FORWARD, T=512, S=512, D=16)
    held = one(run("numpy-reference-kernel", asked=lambda *_: [_memory(largest, "must")]))
    assert held.verdict == "broken"
    assert held.value == pytest.approx(2, abs=0.2)
    assert "(exact)" in held.sentence
    assert "all scores are held" in held.sentence
    none = one(run("torch-sdpa", asked=lambda *_: [_memory(largest, "must")]))
    assert none.verdict == "holds"
    assert none.value == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_kind_has_its_laws(device: str) -> None:
    kernel, _ = subject("torch-sdpa")
    names = [law.name for law in laws(kernel, "float32", device)]
    assert names == ["length", "batch", "heads", "decode", "causal", "grouped", "memory"]
    module, _ = subject("attn-flash")
    found = {law.name: law for law in laws(module, "float32", device)}
    assert list(found) == ["length", "batch", "decode", "causal", "memory"]
    assert found["memory"].level == "must"  # it says so itself
    assert laws(kernel, "float32", device)[-1].level == "should"  # which was assumed
    for law in found.values():
        assert all((w.kind, w.device, w.dtype) == ("module", device, "float32") for w in law.workloads)
        if law.measure == "exponent":
            assert all(b == 2 * a for a, b in zip(law.sizes, law.sizes[1:], strict=False))
            assert [getattr(w, law.variable) for w in law.workloads] == list(law.sizes)


def test_the_command_line(
    hold: Hold,
    metered: Metered,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    target = f"{tmp_path / 'lawful_targets.py'}:metered_attention"
    monkeypatch.setattr(lawful, "clock_for", ticking(metered))
    monkeypatch.setattr(
        lawful.run, "__kwdefaults__", lawful.run.__kwdefaults__ | {"asked": lambda *_: [LENGTH, CAUSAL]}
    )
    metered.cost = lambda T, S, c: 0.1 * T**2
    path = tmp_path / "laws.json"
    assert main(["bench", target, "--laws", "--json", str(path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "length (must)" in out
    assert "2 laws: 1 holds, 1 broken" in out
    assert [f["verdict"] for f in json.loads(path.read_text())["findings"]] == ["holds", "broken"]
    assert main(["bench", target, "--laws", "--strict", "--quiet"]) == 1
    assert "length" not in capsys.readouterr().out
    metered.cost = lambda T, S, c: 0.1 * T**3
    assert main(["bench", target, "--laws"]) == 1
    assert main(["bench", target, "--laws", "--vs", target]) == 2
    assert "asks one implementation" in capsys.readouterr().err
    assert main(["bench", "no-such-target", "--laws"]) == 2


def test_a_target_that_answers_nothing_is_refused(hold: Hold) -> None:
    with pytest.raises(TargetError, match="has no 'missing'"):
        hold(lambda T, S, c: 1, LENGTH, target="missing")


def test_the_guide_names_the_limits() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "benchmarks.md").read_text(encoding="utf-8")
    table = guide.partition("## Laws")[2].partition("## Cliffs")[0]
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in table.splitlines() if row.startswith("| ")}
    for law in laws(subject("torch-sdpa")[0], "float32", "cpu"):
        assert f"{law.most:g}" in rows[law.name] or law.name == "heads"
        assert law.least is None or f"{law.least:g}" in rows[law.name]
        assert law.level in rows[law.name]
