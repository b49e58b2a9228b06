"""Recordings of pairs on synthetic seconds: where they are cut, what is counted, how certain a rate is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from attn_conformance.bench.clocks import Reading
from attn_conformance.bench.pairs import LIMIT
from attn_conformance.bench.rule import Decision, Rule
from attn_conformance.selftest import recordings
from attn_conformance.selftest.binomial import at_most, lower_limit, upper_limit
from attn_conformance.selftest.recorded import (
    HEAD,
    SCHEMA,
    Array,
    Comparison,
    Part,
    Rates,
    Summaries,
    judged,
    summed,
    windows,
)
from attn_conformance.selftest.recorded_page import page
from attn_conformance.selftest.recordings import Plan, record

RULE = Rule()


def pairs(rounds: int, ratio: float, sigma: float, seed: int) -> tuple[Array, Array]:
    """Seconds of rounds whose ratio scatters about the given one."""
    rng = np.random.default_rng(seed)
    base = 1e-3 * np.exp(rng.normal(0, 0.1, rounds))
    return base, base * ratio * np.exp(rng.normal(0, sigma, rounds))


def compared(base: Array, candidate: Array, *, more: bool = False, **other: object) -> Comparison:
    facts = {"clock": "thread", "repeats": 2, "passed": 1.0, "problem": ""} | other
    return Comparison(more, *facts.values(), base, candidate, base, candidate)  # type: ignore[arg-type]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, "fine"), (1.08, "regressed"), (0.5, "fine")])
def test_windows_follow_each_other_without_a_gap(ratio: float, verdict: str) -> None:
    base, candidate = pairs(60, ratio, 0.0, 1)
    found = windows(base, candidate, RULE)
    assert [decision.rounds for decision in found] == [12] * 5
    assert {decision.verdict for decision in found} == {verdict}


def test_each_window_is_decided_by_its_own_rounds_alone() -> None:
    fine, slow = pairs(12, 1.0, 0.0, 1), pairs(12, 1.08, 0.0, 2)
    base, candidate = (np.concatenate([a, b, c]) for a, b, c in zip(fine, slow, fine, strict=True))
    assert [decision.verdict for decision in windows(base, candidate, RULE)] == ["fine", "regressed", "fine"]


def test_a_window_takes_as_many_rounds_as_its_decision_needs() -> None:
    noisy, calm = pairs(320, 1.0, 0.3, 3), pairs(12, 1.0, 0.0, 4)
    base, candidate = (np.concatenate([a, b]) for a, b in zip(noisy, calm, strict=True))
    found = windows(base, candidate, RULE)
    assert [(decision.verdict, decision.rounds) for decision in found] == [
        ("inconclusive", 320),
        ("fine", 12),
    ]


def test_windows_decide_as_the_rule_does_while_it_measures() -> None:
    base, candidate = pairs(4000, 1.045, 0.02, 5)
    live: list[Decision] = []
    begun = 0
    for _ in range(10):
        live.append(_first(base[begun:], candidate[begun:]))
        begun += live[-1].rounds
    assert len({decision.rounds for decision in live}) > 1
    assert windows(base[:begun], candidate[:begun], RULE) == live


@pytest.mark.parametrize("rounds", [11, 23])
def test_rounds_that_decide_nothing_are_no_recording_of_this_rule(rounds: int) -> None:
    base, candidate = pairs(rounds, 1.0, 0.0, 6)
    with pytest.raises(ValueError, match="11 rounds decide nothing"):
        windows(base, candidate, RULE)


def test_synthetic_rates_are_what_the_rule_promises() -> None:
    def share(ratio: float, verdict: str) -> float:
        found = []
        for seed in range(200):
            base, candidate = pairs(320, ratio, 0.025, seed)
            found.append(_first(base, candidate).verdict == verdict)
        return sum(found) / len(found)

    assert share(1.0, "regressed") == 0
    assert share(1.0, "fine") == 1
    assert share(1.05, "regressed") >= 0.99


def _first(base: Array, candidate: Array) -> Decision:
    """What is decided while it is measured."""
    for look in RULE.looks:
        if (decision := RULE.decide(base[:look].tolist(), candidate[:look].tolist())) is not None:
            return decision
    raise AssertionError("the last look decides")


def part(number: int, *found: Comparison, workload: str = "work") -> Part:
    return Part(number, workload, 1.0, 2.0 + number, found)


def rates(parts: list[Part], *, more: bool, workload: str = "all") -> Rates:
    (found,) = (r for r in summed(parts, RULE) if r.more is more and r.workload == workload)
    return found


def test_counts() -> None:
    fine, slow, noisy = pairs(12, 1.0, 0.0, 1), pairs(12, 1.08, 0.0, 2), pairs(320, 1.0, 0.3, 3)
    parts = [
        part(0, compared(*fine), compared(*slow), compared(*slow, more=True)),
        part(1, compared(*noisy, passed=LIMIT + 1), compared(*fine, more=True), workload="other"),
        part(2, compared(*fine, problem="other threads"), compared(*slow, more=True)),
    ]
    same, more = rates(parts, more=False), rates(parts, more=True)
    assert (same.regressed, same.fine, same.inconclusive, same.failed) == (1, 1, 1, 1)
    assert (same.decisions, same.processes, same.late) == (4, 3, 1)
    assert same.limit == upper_limit(1, 4)
    assert (more.regressed, more.fine, more.decisions) == (2, 1, 3)
    assert more.limit == upper_limit(1, 3)
    assert more.detected == pytest.approx(1 - more.limit)
    assert rates(parts, more=False, workload="other").rounds == (320, 320, 320)
    assert rates(parts, more=True, workload="work").regressed == 2
    assert same.seconds == pytest.approx(0.5e-3, rel=0.2)  # two calls in a round


def test_bias_and_chance_are_told_apart() -> None:
    rng = np.random.default_rng(0)

    def process(number: int, bias: float) -> Part:
        base, candidate = pairs(200, math.exp(rng.normal(0, bias)), 0.02, number)
        return part(number, compared(base, candidate, problem="not judged"))

    def processes(bias: float) -> list[Part]:
        return [process(number, bias) for number in range(200)]

    none, some = (rates(processes(bias), more=False) for bias in (0.0, 0.01))
    assert none.sigma == pytest.approx(0.02, rel=0.1)
    assert none.by_chance == pytest.approx(0.02 * math.sqrt(math.pi / 2 / 200), rel=0.15)
    assert none.bias == pytest.approx(none.by_chance, rel=0.15)
    assert some.bias == pytest.approx(math.hypot(0.01, none.by_chance), rel=0.15)
    assert some.largest > none.largest


def folder(path: Path, *parts: Part) -> Path:
    """A recording as `record` writes it."""
    machine = {"cpu": "A CPU", "cores": 2, "torch": "2.0", "python": "3.11", "ceilings": {"read": 1e10}}
    rule = {"margin": 0.02, "delta": 0.05, "alpha": 0.01, "looks": list(RULE.looks), "noise": 0.05}
    about = {
        "recording": SCHEMA,
        "plan": {"seed": 1},
        "rule": rule,
        "suite": "0",
        "date": "2026-01-01T00:00:00",
        "machine": machine,
    }
    path.mkdir()
    (path / HEAD).write_text(json.dumps(about))
    for one in parts:
        one.write(path / f"{one.number:04}.npz")
    return path


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    noisy, fine = pairs(320, 1.0, 0.3, 3), pairs(12, 1.0, 0.0, 1)
    written = part(3, compared(*noisy), compared(*fine, more=True, problem="why"))
    (folder(tmp_path / "made", written) / "0007.tmp").write_bytes(b"broken off")
    read = Part.read(tmp_path / "made" / "0003.npz")
    assert (read.number, read.workload, read.before, read.after) == (3, "work", 1.0, 5.0)
    for one, other in zip(read.comparisons, written.comparisons, strict=True):
        assert (one.more, one.clock, one.repeats, one.passed, one.problem) == (
            other.more,
            other.clock,
            other.repeats,
            other.passed,
            other.problem,
        )
        for name in ("base", "candidate", "base_wall", "candidate_wall"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_recording_is_judged_by_its_own_rule(tmp_path: Path) -> None:
    """Old ones say nothing of patience, and have none: they end with a median above the margin."""
    candidate = np.array([1.0, *np.linspace(1.005, 1.04, 11)])
    made = folder(tmp_path / "made", part(0, compared(np.ones(12), candidate, more=True)))
    assert judged(made).whole(more=True).fine == 1
    about = json.loads((made / HEAD).read_text())
    about["rule"]["patient"] = True
    (made / HEAD).write_text(json.dumps(about))
    with pytest.raises(ValueError, match="12 rounds decide nothing"):
        judged(made)


def test_targets(tmp_path: Path) -> None:
    fine, slow, noisy = pairs(12, 1.0, 0.0, 1), pairs(12, 1.08, 0.0, 2), pairs(320, 1.0, 0.3, 3)
    many = [np.tile(seconds, 2995) for seconds in fine]
    copies, found = compared(*many), [compared(*slow, more=True)] * 300
    noise = [compared(*noisy, more=True)] * 4
    parts = {
        ("reached", "reached"): [copies, *found],
        ("missed", "reached"): [copies, *[compared(*slow)] * 3, *found],
        ("reached", "missed"): [copies, *found, *noise],
        ("open", "open"): [compared(*fine), *found, *noise[:3]],
    }
    for number, (targets, comparisons) in enumerate(parts.items()):
        path = folder(tmp_path / str(number), part(0, *comparisons))
        summary = judged(path)
        assert tuple(summary.whole(more=more).target for more in (False, True)) == targets
        assert summary.ok == (targets == ("reached", "reached"))
        assert recordings.main(["judge", str(path)]) == (0 if summary.ok else 1)
    assert recordings.main(["judge", str(tmp_path / "0"), str(tmp_path / "1")]) == 1


def test_the_page_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine, slow = pairs(12, 1.0, 0.0, 1), pairs(12, 1.08, 0.0, 2)
    made = folder(tmp_path / "made", part(0, compared(*fine), compared(*slow, more=True)))
    file, document = tmp_path / "judged.json", tmp_path / "judged.md"
    assert recordings.main(["judge", str(made), "--json", str(file), "--markdown", str(document)]) == 1
    found = Summaries.read(file)
    assert found == Summaries.read(made)
    text = document.read_text()
    assert text == page(found)
    assert (
        "**0 false alarms in 1 decisions** of 1 processes (at the most 95.00%; target 0.1%: open, too few decisions)"
        in text
    )
    assert "**1 of 1 detected**" in text
    assert "one core of A CPU" in text
    assert capsys.readouterr().out.splitlines()[0] in text
    # Another recording is added to the file of an earlier one.
    assert recordings.main(["judge", str(file), str(made), "--json", str(file)]) == 1
    assert len(Summaries.read(file).summaries) == 2


def test_what_is_no_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = folder(tmp_path / "empty")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "nothing").mkdir()
    for path in (empty, tmp_path / "other.json", tmp_path / "nothing"):
        assert recordings.main(["judge", str(path)]) == 2
    said = capsys.readouterr().err
    assert "holds no process yet" in said
    assert "not a file of judged recordings" in said


def test_processes_are_recorded_and_what_was_broken_off_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    told: list[tuple[int, int]] = []
    plan, path = Plan("cpu", 2, 1, 1, 0), tmp_path / "made"

    def progress(under_way: str, done: int, total: int) -> None:
        told.append((done, total))

    record(path, plan, 1, progress)
    parts = [Part.read(file) for file in sorted(path.glob("*.npz"))]
    assert told == [(1, 2), (2, 2)]
    assert [part.number for part in parts] == [0, 1]
    assert len({part.workload for part in parts}) == 2
    for one in parts:
        assert sorted(c.more for c in one.comparisons) == [False, True]
        for comparison in one.comparisons:
            assert len(windows(comparison.base, comparison.candidate, RULE)) == 1
            assert (comparison.base > 0).all()
    assert not np.array_equal(parts[0].comparisons[0].base[:12], parts[1].comparisons[0].base[:12])
    before = (path / "0001.npz").stat().st_mtime_ns
    (path / "0000.npz").unlink()
    record(path, plan, 1, progress)
    assert told[2:] == [(2, 2)]
    assert (path / "0001.npz").stat().st_mtime_ns == before
    assert judged(path).processes == 2
    with pytest.raises(ValueError, match="another plan"):
        record(path, Plan("cpu", 2, 1, 1, 1), 1, progress)
    about = json.loads((path / HEAD).read_text())
    (path / HEAD).write_text(json.dumps(about | {"rule": about["rule"] | {"patient": False}}))
    with pytest.raises(ValueError, match="another rule"):
        record(path, plan, 1, progress)


def test_exact_limits() -> None:
    assert upper_limit(0, 3000) == pytest.approx(1 - 0.05 ** (1 / 3000))  # the rule of three
    assert upper_limit(0, 2995) < 0.001 < upper_limit(0, 2994)
    assert upper_limit(3, 3) == 1
    assert lower_limit(0, 3) == 0
    assert lower_limit(3, 3) == pytest.approx(0.05 ** (1 / 3))
    for happened, of in ((0, 1), (1, 10), (7, 900), (450, 900), (899, 900)):
        assert at_most(happened, of, upper_limit(happened, of)) == pytest.approx(0.05, rel=1e-6)
        if happened:
            lower = lower_limit(happened, of)
            assert 1 - at_most(happened - 1, of, lower) == pytest.approx(0.05, rel=1e-6)
            assert lower < happened / of < upper_limit(happened, of)
    # A published value: 10 of 100, two-sided 95 %, is 0.0490 to 0.1762.
    assert lower_limit(10, 100, 0.025) == pytest.approx(0.0490, abs=5e-5)
    assert upper_limit(10, 100, 0.025) == pytest.approx(0.1762, abs=5e-5)


class Played:
    """A side whose rounds take the seconds given, in place of any work."""

    def __init__(self, seconds: Array) -> None:
        self.left, self.problem = iter(seconds), None
        self.readings: list[Reading] = []


def test_decisions_go_on_where_the_last_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [Played(seconds) for seconds in pairs(4000, 1.045, 0.02, 7)]
    rounds: list[int] = []

    def play(played: tuple[Played, Played], clock: object, rng: object, more: int) -> None:
        rounds.append(more)
        for side in played:
            side.readings += [Reading(next(side.left), 0.0) for _ in range(more)]

    monkeypatch.setattr(recordings, "play", play)
    live = [recordings.go_on(*sides, None, RULE, None) for _ in range(8)]  # type: ignore[arg-type]
    base, candidate = (np.array([r.seconds for r in side.readings]) for side in sides)
    assert windows(base, candidate, RULE) == live
    assert sum(rounds) == len(base)
    assert all(rounds)
