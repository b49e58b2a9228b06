"""Alarms and detections: what counts as either, what is left out, when a rate has dropped, how far attacks get."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attn_conformance.cases.values import FAMILIES as ALL_FAMILIES
from attn_conformance.cli import main
from attn_conformance.controls import controls
from attn_conformance.defects import defects
from attn_conformance.selftest import alarms, attack, panel
from attn_conformance.selftest.alarms import Alarms, Count, same, worsened
from attn_conformance.selftest.attack import Attack
from attn_conformance.selftest.panel import Member, chosen, loaded
from attn_conformance.selftest.population import FAMILIES, drawn, population, small_population
from attn_conformance.selftest.posed import posed
from attn_conformance.selftest.rates import grids
from attn_conformance.selftest.rates import main as write_page
from attn_reference.claims import DTYPES

Accuse = Callable[[str], None]


@pytest.fixture
def accuse(monkeypatch: pytest.MonkeyPatch) -> Accuse:
    """Takes a defective kernel for a right one, for one test."""

    def planted(target: str) -> None:
        monkeypatch.setattr(panel, "panel", lambda device: (Member("control:naive"), Member(target)))

    return planted


def selftest(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["selftest", "alarms", "--jobs", "1", *arguments])
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), err


def result(*counts: Count) -> Alarms:
    return Alarms(
        9, 0, 1, 0.5, counts, {"python": "3", "numpy": "2", "platform": "x", "date": "2026-01-01"}, "0"
    )


def test_right_kernels_pass_and_defects_are_detected_case_by_case(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "alarms.json"
    status, out, err = selftest(
        capsys,
        "--cases",
        "40",
        "--only",
        "naive,tf32,no-scale,gain-1.002",
        "--json",
        str(path),
        "--jobs",
        "2",
    )
    assert (status, err) == (0, "")
    data = json.loads(path.read_text())
    found = Alarms.from_json(data)
    assert json.loads(json.dumps(found.to_json())) == data
    of = {(c["kernel"], c["dtype"]): c for c in data["counts"]}
    assert sum(of["naive", dtype]["cases"] for dtype in DTYPES) == data["cases"] == 40
    assert data["totals"]["alarms"] == 0
    assert ("tf32", "bfloat16") not in of  # which it does not claim
    assert of["gain-1.002", "float32"]["detected"] == of["gain-1.002", "float32"]["cases"] > 5
    assert of["gain-1.002", "bfloat16"]["detected"] < of["gain-1.002", "bfloat16"]["cases"]
    assert "0 alarms in" in out
    here = alarms.run(cases=40, only=["no-scale"])
    assert here.counts == tuple(count for count in found.counts if count.kernel == "no-scale")


def test_cases_in_which_a_defect_changes_no_bit_are_left_out() -> None:
    found = alarms.run(cases=60, only=["mask-after-softmax", "naive"]).counts
    drawn_in = {count.dtype: count.cases for count in found if count.right}
    wrong = [count for count in found if not count.right]
    assert all(count.cases + count.equal == drawn_in[count.dtype] for count in wrong)
    assert sum(count.equal for count in wrong) > sum(count.cases for count in wrong) > 0


def test_nan_is_no_bit_for_bit_copy() -> None:
    one, nan = {"out": np.ones(2)}, {"out": np.full(2, np.nan)}
    assert same(one, one)
    assert not same(nan, nan)
    assert not same(one, None)


def test_an_accused_right_kernel_is_named_and_gives_1(
    capsys: pytest.CaptureFixture[str], accuse: Accuse
) -> None:
    accuse("defect:two-columns-swapped")
    status, out, _ = selftest(capsys, "--cases", "20", "--quiet")
    assert status == 1
    assert out.startswith("Alarms: right kernels that are accused two-columns-swapped, out: ")
    status, out, _ = selftest(capsys, "--attack", "--examples", "20", "--quiet")
    assert status == 1
    assert "two-columns-swapped, out: " in out


def test_a_kernel_that_raises_is_accused(accuse: Accuse, monkeypatch: pytest.MonkeyPatch) -> None:
    accuse("control:late-normalisation")
    broken = replace(loaded("control:late-normalisation"), function=lambda q, k, v, mask=None: 1 / 0)
    monkeypatch.setattr(alarms, "loaded", lambda target, device: broken)
    found = alarms.run(cases=3)
    assert found.totals["alarms"] == found.totals["comparisons"] > 0
    assert {count.largest for count in found.counts} == {math.inf}
    assert Alarms.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_a_rate_drops_when_chance_explains_it_once_in_a_thousand_times_or_less() -> None:
    def rate(detected: int, cases: int, kernel: str = "a") -> Count:
        return Count(kernel, "out", "float32", right=False, cases=cases, detected=detected)

    (drop,) = worsened(result(rate(0, 10)), result(rate(10, 10)))
    assert drop[2] == pytest.approx(1 / math.comb(20, 10))
    assert not worsened(result(rate(5, 10)), result(rate(10, 10)))  # once in 60 times
    assert not worsened(result(rate(10, 10)), result(rate(0, 10)))
    assert not worsened(result(rate(0, 10, "new")), result(rate(10, 10)))
    others = [rate(1, 1, str(n)) for n in range(200)]
    assert not worsened(result(rate(0, 10), *others), result(rate(10, 10), *others))


def test_a_lower_rate_than_before_is_named_and_gives_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "before.json"
    before = alarms.run(cases=40, only=["gain-1.002"])
    better = [replace(count, cases=1000, detected=1000) for count in before.counts]
    path.write_text(json.dumps(replace(before, counts=tuple(better)).to_json()))
    arguments = ("--cases", "40", "--only", "gain-1.002", "--quiet", "--against", str(path))
    status, out, _ = selftest(capsys, *arguments)
    assert status == 1
    assert out.startswith("Rates that have dropped gain-1.002, out, ")
    assert "gain-1.002, out, bfloat16: " in out
    assert "float32" not in out
    path.write_text(json.dumps(before.to_json()))
    assert selftest(capsys, *arguments)[0] == 0


def test_what_cannot_be_done_gives_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    for arguments, said in (
        (("--only", "naif"), "no kernel 'naif' in the panel; known are naive, "),
        (("--attack", "--only", "no-scale"), "right kernels alone are attacked"),
        (("--json", str(tmp_path / "no" / "a.json")), "--json: there is no folder"),
        (("--against", str(tmp_path / "other.json")), "not a file of alarms"),
        (("--against", str(tmp_path / "none.json")), "none.json"),
    ):
        status, _, err = selftest(capsys, *arguments)
        assert status == 2
        assert said in err


def test_an_attack_repeats_and_its_cases_replay(tmp_path: Path) -> None:
    first = attack.run(examples=240, only=["online-16"], seed=3)
    again = attack.run(examples=240, only=["online-16"], seed=3, jobs=2)
    assert first.peaks == again.peaks
    assert [(peak.dtype, peak.examples) for peak in first.peaks] == [(dtype, 60) for dtype in DTYPES]
    for peak in first.peaks:
        assert posed(peak.case, "out").largest(loaded("control:online-16")) == peak.largest
    assert Attack.from_json(json.loads(json.dumps(first.to_json()))) == first


def test_a_climb_rises_above_its_scouts() -> None:
    scouts, climb = (
        attack.climbed(attack.Climb(Member("control:online-16"), "float32", steps, 3, 0)).largest
        for steps in (attack.SCOUTS, 4 * attack.SCOUTS)
    )
    assert climb > scouts


def test_every_defect_is_wrong_somewhere_and_its_twin_is_not() -> None:
    wrong = [member for member in chosen(()) if member.target.startswith("defect:")]
    twins = {loaded(member.twin or "").function: Member(member.twin or "", member.of) for member in wrong}
    cases = drawn(population(DTYPES), 60, 1)
    counts = alarms.counted(alarms.Chunk(cases, (*wrong, *twins.values())))
    detected = {count.kernel for count in counts if not count.right and count.failed}
    assert detected == set(defects())
    assert len({count.kernel for count in counts if count.right}) == len(twins)
    assert not any(count.failed for count in counts if count.right)


def test_gradients_are_counted_for_each_input() -> None:
    found = alarms.run(
        cases=20, only=["tiled-backward", "row-term-missing", "first-query-missing-in-the-value-gradient"]
    )
    assert {count.of for count in found.counts} == {"gradients"}
    assert all(count.comparisons == 3 * count.cases for count in found.counts)
    one = [count for count in found.counts if count.kernel.startswith("first-query")]
    assert sum(count.failed for count in one) == sum(count.detected for count in one) > 10  # that of v alone
    two = [count for count in found.counts if count.kernel == "row-term-missing"]
    assert sum(count.failed for count in two) > sum(count.detected for count in two)
    (peak,) = attack.run(examples=1, only=["eager-autograd"]).peaks[:1]
    assert (peak.of, peak.dtype) == ("gradients", "float16")


def test_the_panel_has_every_kernel_that_computes_differently() -> None:
    names = [member.name for member in chosen(())]
    assert len({(member.name, member.of) for member in chosen(())}) == len(names)
    assert set(controls("kernel")) - set(names) == set(panel.ALIKE)
    assert set(defects()) < set(names)
    assert [member.name for member in chosen(["gain-1.002"])] == ["gain-1.002"]


def test_the_same_seed_gives_the_same_cases_whatever_else_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drawn(population(DTYPES), 50, 6)
    (tmp_path / "full_of_numbers.py").write_text(f"NUMBERS = {list(range(3, 3000, 7))}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("full_of_numbers")
    assert drawn(population(DTYPES), 50, 6) == before


@pytest.mark.parametrize("strategy", [population, small_population])
def test_the_population_has_every_kind_and_is_the_same_for_a_seed(strategy) -> None:
    cases = drawn(strategy(DTYPES), 400, 5)
    assert cases == drawn(strategy(DTYPES), 400, 5)
    assert len(set(cases)) == len(cases) > 380
    assert {case.values for case in cases} == set(FAMILIES) < set(ALL_FAMILIES)
    assert {case.dtype for case in cases} == set(DTYPES)
    assert {case.poison for case in cases} == {"none", "values", "keys", "both"}
    assert {case.mask.structure if case.mask else None for case in cases} == {
        *(None, "random", "padding-right", "all", "triangle", "some-rows-empty"),
    }
    assert any(case.causal and case.queries < case.keys for case in cases)
    assert max(case.keys for case in cases) >= (1024 if strategy is population else 54)


def test_the_page_tells_all_numbers(tmp_path: Path) -> None:
    counts = [
        Count("right", "out", "float32", True, cases=3, comparisons=3, failed=1, detected=1, largest=1.234),
        Count(
            "wrong",
            "out",
            "float32",
            False,
            cases=1000,
            comparisons=1000,
            failed=999,
            detected=999,
            largest=9.0,
        ),
        Count("wrong", "out", "float16", False, equal=7),
    ]
    one, two = (grid.markdown() for grid in grids(result(*counts)))
    assert "| right | 3 | 1 |  | 1.23 |  |  |" in one
    assert "| wrong | 1000 | 99 |  | 99 |  |  |" in two  # 100 where all are, only
    files = [tmp_path / name for name in ("alarms.md", "alarms.json", "attack.json")]
    files[1].write_text(json.dumps(result(*counts).to_json()))
    files[2].write_text(json.dumps(attack.run(examples=4, only=["naive"]).to_json()))
    write_page(*map(str, files))
    text = files[0].read_text()
    assert "**1 alarms in 3 comparisons**" in text
    assert one in text
    assert "| naive | 4 | " in text


def test_what_a_kernel_declines_is_not_counted_and_what_it_fails_at_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raises(message: str) -> Callable[..., None]:
        def kernel(q: object, k: object, v: object, mask: object = None, is_causal: bool = False) -> None:
            raise RuntimeError(message)

        return kernel

    right = loaded("control:naive")
    for message, comparisons in (("No available kernel. Aborting execution.", 0), ("no memory", 12)):
        broken = replace(right, function=raises(message))
        monkeypatch.setattr(alarms, "loaded", lambda target, device="cpu", it=broken: it)
        monkeypatch.setattr(alarms, "chosen", lambda only, device: (Member("control:naive"),))
        found = alarms.run(cases=12)
        assert sum(count.comparisons for count in found.counts) == comparisons
        assert sum(count.failed for count in found.counts) == comparisons


def test_on_cuda_rows_that_see_nothing_are_not_posed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = replace(loaded("control:naive"), device="cuda")
    cases = drawn(population(DTYPES), 200, 0)
    left_out = [case for case in cases if not posed(case, "out").concerns(there)]
    assert 0 < len(left_out) < 60
    assert {case.mask.structure for case in left_out if case.mask is not None} >= {"some-rows-empty"}


def test_attacks_on_cuda_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = selftest(capsys, "--attack", "--device", "cuda")
    assert (status, err.strip()) == (2, "attacks climb on the CPU")
