"""The self-test: mutants rejected and twins passed, what is said of those that are not, and its files."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attn_conformance import mutants as registry
from attn_conformance.cli import main
from attn_conformance.commands.selftest import show
from attn_conformance.mutants import Mutant, mutants
from attn_conformance.results import Row
from attn_conformance.runner import run
from attn_conformance.selftest import attribution, duels
from attn_conformance.selftest.attribution import judging, killer
from attn_conformance.selftest.kills import Kill, Kills
from attn_conformance.selftest.page import page
from attn_conformance.selftest.table import BEGIN, END, inserted, line, lines, markdown

THREE = "inverted-mask,no-scale,causal-only-without-a-prefix"
Plant = Callable[..., Mutant]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Registers, for one test, a mutant made from another one."""

    def planted(name: str, like: str, **changes: Any) -> Mutant:
        mutant = replace(mutants()[like], name=name, **changes)
        monkeypatch.setitem(registry._registry, name, mutant)
        return mutant

    return planted


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves few requirements to ask in the full form, which would take a minute otherwise."""
    table = {name: duels.load_requirements()[name] for name in ("MASK-1", "CAUSAL-3", "CACHE-2", "MASK-2")}
    monkeypatch.setattr(duels, "load_requirements", lambda: table)


def selftest(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["selftest", "kills", "--jobs", "1", *arguments])
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), err


def example(**changes: Any) -> Kill:
    fields: dict[str, Any] = {"mutant": "a", "kind": "kernel", "bug_class": "SCALE", "requirement": "EQ-1"}
    found = {"rejected": True, "examples": 3, "seconds": 0.25, "size": {"B": 2, "T": 1}, "case": "B=2 T=1"}
    return Kill(**{**fields, **found, **changes})


def survivor(**changes: Any) -> Kill:
    nothing = {"rejected": False, "examples": None, "seconds": None, "size": None, "case": None}
    return example(**nothing, **changes)


def result(*found: Kill) -> Kills:
    return Kills(seed=7, full=True, jobs=2, seconds=1.5, kills=found, environment={"cpus": 2}, suite="0")


def test_mutants_are_rejected_and_their_twins_pass(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "kills.json"
    status, out, err = selftest(capsys, "--only", THREE, "--json", str(path), "--jobs", "2")
    errors = [
        line for line in err.splitlines() if not line.startswith("selftest kills: ")
    ]  # progress, if it is slow
    assert (status, errors) == (0, [])
    assert "CHUNK │ several new tokens" in out
    assert "3 of 3 mutants rejected, 3 of 3 twins passed (effort default, seed 0," in out
    assert "Survivors" not in out
    data = json.loads(path.read_text())
    assert data["counts"] == {"mutants": 3, "rejected": 3, "twins passed": 3}
    assert data["environment"]["numpy"]
    first = data["mutants"][0]
    assert first["mutant"] == "inverted-mask"
    assert first["size"] == {"B": 2, "H": 2, "T": 2, "S": 2}
    assert first["case"].startswith("B=2 H=2 T=2 S=2 D=4 ")
    assert first["wrong_killers"] is None
    assert all(kill["examples"] >= 1 and 0 < kill["seconds"] < 10 for kill in data["mutants"])
    here = duels.run(only=THREE.split(","))
    alike = [{**kill.to_json(), "seconds": 0} for kill in here.kills]
    assert alike == [{**kill, "seconds": 0} for kill in data["mutants"]]


def test_it_finds_what_a_run_finds() -> None:
    name = "keys-remembered-without-a-cache"
    (kill,) = duels.run(only=[name], seed=3).kills
    row = run(f"mutant:{name}", only=[kill.requirement], seed=3, isolate=False).rows[kill.requirement]
    assert (kill.examples, kill.case) == (row.examples, row.summary)
    assert kill.examples is not None
    assert kill.examples > 1


def test_with_several_seeds_each_counts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name, path = "keys-remembered-without-a-cache", tmp_path / "kills.json"
    status, out, _ = selftest(capsys, "--only", name, "--seed", "3", "--seeds", "2", "--json", str(path))
    assert status == 0
    assert "weakest mutants" in out
    assert f"{name} │ STALE │ CACHE-1 │" in out
    assert "1 of 1 mutants rejected, 1 of 1 twins passed (effort default, seed 3 to 4," in out
    (found,) = json.loads(path.read_text())["mutants"]
    alone = [duels.run(only=[name], seed=seed).kills[0] for seed in (3, 4)]
    assert found["by_seed"] == [kill.examples for kill in alone]
    assert (found["examples"], found["case"]) == (alone[0].examples, alone[0].case)
    assert re.search(r'"by_seed": \[\d+, \d+\]\n', path.read_text())


def test_a_twin_has_to_pass_with_each_seed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = duels.judged

    def failing_with_seed_1(task: duels.Task) -> dict[str, Any]:
        rows = judged(task)
        if task.target.startswith("twin:") and task.seed == 1:
            return {
                name: replace(made, row=replace(made.row, status="failed", message="so"))
                for name, made in rows.items()
            }
        return rows

    monkeypatch.setattr(duels, "judged", failing_with_seed_1)
    assert duels.run(only=["inverted-mask"], effort="smoke").ok
    (kill,) = duels.run(only=["inverted-mask"], effort="smoke", seeds=2).kills
    assert kill.twin == "MASK-1 failed: so"
    assert not kill.ok


def test_one_seed_in_a_hundred_may_let_a_mutant_live_and_the_median_has_a_limit() -> None:
    def with_runs(*runs: int | None, rejected: bool = True) -> Kills:
        return replace(result(example(by_seed=runs, rejected=rejected)), seeds=len(runs))

    assert with_runs(21, 21, 150).ok
    late = with_runs(22, 22, 1)
    assert not late.ok
    assert late.late == late.kills
    assert late.most_examples == 21
    assert with_runs(22).ok  # one seed has no median
    half = example(by_seed=(1, None, None))
    assert (half.median_examples, half.survived) == (float("inf"), 2)
    found = result(
        example(mutant="quick", by_seed=(1, 1)),
        example(mutant="lives", by_seed=(1, None)),
        example(mutant="slow", by_seed=(9, 9)),
    )
    assert [kill.mutant for kill in found.weakest(2)] == ["lives", "slow"]
    console = Console(file=io.StringIO(), width=200)
    show(replace(late, seed=0), console)
    assert "median seed does not reject within 21 examples a (SCALE): EQ-1: 22" in " ".join(
        console.file.getvalue().split()  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize(("lives", "rejected"), [(0, True), (1, True), (2, False), (100, False)])
def test_of_a_hundred_seeds_one_is_pardoned(
    monkeypatch: pytest.MonkeyPatch, lives: int, rejected: bool
) -> None:
    judged = duels.judged(duels.Task("mutant:inverted-mask", ("MASK-1",), 0, "smoke", shrink=False))
    right = duels.judged(duels.Task("twin:inverted-mask", ("MASK-1",), 0, "smoke", shrink=False))

    def known(task: duels.Task) -> dict[str, Any]:
        return right if task.target.startswith("twin:") or task.seed < lives else judged

    monkeypatch.setattr(duels, "judged", known)
    (kill,) = duels.run(only=["inverted-mask"], seeds=100).kills
    assert (kill.rejected, kill.survived, kill.twin) == (rejected, lives, None)
    assert (kill.examples is None) == (lives == 100)


def test_a_survivor_and_a_wrong_twin_are_named_and_give_1(
    capsys: pytest.CaptureFixture[str], plant: Plant
) -> None:
    right = mutants()["inverted-mask"].twin
    plant("not-wrong-at-all", "inverted-mask", target=right)
    status, out, _ = selftest(capsys, "--only", "not-wrong-at-all", "--quiet")
    assert status == 1
    assert out.startswith("Survivors, which")
    assert "not-wrong-at-all (POLARITY): MASK-1 0 of 1 mutants rejected, 1 of 1 twins passed" in out
    plant("wrong-in-both", "inverted-mask", twin=mutants()["inverted-mask"].target)
    status, out, _ = selftest(capsys, "--only", "wrong-in-both", "--quiet")
    assert status == 1
    assert "Right twins that fail that of wrong-in-both: MASK-1 failed: differs from the reference" in out
    assert "1 of 1 mutants rejected, 0 of 1 twins passed" in out


def test_a_mutant_of_which_its_requirement_asks_nothing_survives(plant: Plant) -> None:
    claims = mutants()["inverted-mask"].claims
    plant("claims-little", "inverted-mask", claims=replace(claims, features=frozenset({"causal"})))
    (kill,) = duels.run(only=["claims-little"]).kills
    assert not kill.rejected
    assert kill.message == "not claimed: bool-mask"
    assert kill.twin == f"MASK-1 skipped: {kill.message}"


@pytest.mark.usefixtures("narrow")
def test_in_full_the_rows_that_nobody_expects_to_fail_are_named(plant: Plant) -> None:
    plant("misnamed", "top-left-triangle-in-the-module", requirement="MASK-1", also_fails={"CACHE-2": "so"})
    asked = ("top-left-triangle-in-the-module", "misnamed")
    found = duels.run(only=asked, full=True, effort="smoke")
    assert [kill.wrong_killers for kill in found.kills] == [(), ("CAUSAL-3",)]
    console = Console(file=io.StringIO(), width=200)
    show(found, console, quiet=True)
    out = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "misnamed (ALIGN): MASK-1 Wrong killers" in out
    assert "misnamed: CAUSAL-3 instead of MASK-1" in out
    assert "top-left-triangle-in-the-module:" not in out
    assert "1 of 2 mutants rejected, 2 of 2 twins passed" in out


@pytest.mark.usefixtures("narrow")
def test_in_full_a_twin_may_fail_nothing(plant: Plant) -> None:
    plant("another", "inverted-mask", twin=mutants()["top-left-triangle"].target)
    assert duels.run(only=["another"], effort="smoke").ok
    (kill,) = duels.run(only=["another"], full=True, effort="smoke").kills
    assert (kill.twin or "").startswith("CAUSAL-3 failed: ")
    assert not kill.ok


def test_more_than_three_unlisted_rows_fail_the_self_test() -> None:
    assert example(wrong_killers=("A", "B", "C")).ok
    assert not example(wrong_killers=("A", "B", "C", "D")).ok
    assert not result(example(wrong_killers=("A", "B", "C", "D"))).ok


def test_checks_that_alone_reject_some_mutant_are_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, both = (
        "MASK-1:true_may_attend",
        ("MASK-2:floating_masks_are_added", "NUM-3:x", "NUM-1:y", "EQ-6", "EQ-5:z"),
    )
    found = result(
        example(mutant="a", requirement="MASK-1", killers=(alone,), wrong_killers=()),
        example(mutant="b", requirement="MASK-2", killers=both, wrong_killers=()),
        example(mutant="c", requirement="MASK-2", killers=both[:2], wrong_killers=()),
    )
    who = found.attribution
    assert who is not None
    assert who.only[alone] == ("a",)
    assert who.spread == {"0": 1, "1-3": 1, "more": 1}
    assert who.share == 1 / len(judging())
    assert who.others[both[0]] is None
    assert not who.ok
    shown = dict.fromkeys(judging(), ("a",))
    assert attribution.Attribution({}, shown).ok
    assert not attribution.Attribution({}, {**shown, alone: ()}).ok  # nothing is said for it
    monkeypatch.setitem(attribution.ARGUED, both[0], "it says <why>")
    data = json.loads(json.dumps(found.to_json()))
    assert data["attribution"]["only_killers"] == {alone: ["a"]}
    assert data["attribution"]["others"][both[0]] == "it says <why>"
    assert Kills.from_json(data) == found
    source = page(found, dict.fromkeys("abc", "It lies."))
    assert "it says &lt;why&gt;" in source
    console = Console(file=io.StringIO(), width=200)
    show(found, console, quiet=True)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{alone}: 1" in out
    assert "0 for 1, 1-3 for 1, more for 1 of them" in " ".join(out.split())
    assert result(example()).attribution is None


def test_what_is_argued_for_is_a_check() -> None:
    assert set(attribution.ARGUED) <= set(judging())
    assert all(
        killer(Row("A-1", "must", "failed", check=check)) == name
        for check, name in ((None, "A-1"), ("b", "A-1:b"))
    )


def test_a_file_from_before_attribution_can_be_read() -> None:
    found = result(example(wrong_killers=()))
    data = found.to_json()
    del data["attribution"]
    for kill in data["mutants"]:
        del kill["killers"]
    assert Kills.from_json(data) == found


def test_what_cannot_be_done_gives_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = selftest(capsys, "--only", "inverted-mask,MASQUE")
    assert status == 2
    assert "no mutant or bug class 'MASQUE'; bug classes are ALIAS, " in err
    status, _, err = selftest(capsys, "--json", str(tmp_path / "no" / "kills.json"))
    assert status == 2
    assert "--json: there is no folder" in err


def test_the_file_gives_the_result_back() -> None:
    found = result(example(wrong_killers=("EQ-2",)), survivor(message="why", twin="EQ-1 failed: x"))
    data = json.loads(json.dumps(found.to_json()))
    assert Kills.from_json(data) == found
    assert data["counts"] == {"mutants": 2, "rejected": 1, "twins passed": 1}
    for broken in (
        {**data, "schema": 2},
        {},
        {**data, "more": 1},
        {**data, "mutants": [{"mutant": "a"}]},
        {**data, "mutants": None},
    ):
        with pytest.raises(ValueError, match="not a file of kills"):
            Kills.from_json(broken)


def test_lines_count_survivors_and_leave_them_out_of_medians() -> None:
    found = [example(examples=n, seconds=n / 10) for n in (1, 2, 9)]
    found += [survivor(), survivor(bug_class="EMPTY")]
    empty, scale = lines(found, lambda kill: kill.bug_class)
    assert (empty.name, empty.mutants, empty.survivors) == ("EMPTY", 1, 1)
    assert (empty.median_examples, empty.most_examples, empty.median_seconds) == (None, None, None)
    assert (scale.name, scale.mutants, scale.rejected, scale.survivors) == ("SCALE", 4, 3, 1)
    assert (scale.median_examples, scale.most_examples, scale.median_seconds) == (2, 9, 0.2)
    assert line("", found[:2]).median_examples == 1.5
    assert line("", [example(by_seed=(1, 5, None)), example(by_seed=(9,))]).most_examples == 9
    assert line("", [example(by_seed=(1, 5, None))]).median_examples == 3


def test_the_markdown_tells_of_seeds_where_there_are_several() -> None:
    found = replace(result(example(by_seed=(1, 8, 4)), example(by_seed=(2, 2, None))), seeds=3)
    table = markdown(found.to_json())
    assert (
        "(effort default, seed 7 to 9).\nIn the median seed each dies within 4; of 6 trials, 1 let one live.\n"
        in table
    )


def test_the_markdown_table_takes_its_place_and_no_other() -> None:
    table = markdown(result(example(), example(examples=4), survivor(bug_class="EMPTY")).to_json())
    assert table.startswith("2 of 3 are rejected")
    assert "| SCALE | the factor on q k^T | 2 | 2 | 3.5 |\n" in table
    assert "| EMPTY | zero and unit sizes | 1 | 0 | – |\n" in table
    document = f"before\n{BEGIN}old\n{END}after\n"
    once = inserted(document, table)
    assert once == f"before\n{BEGIN}\n{table}\n{END}after\n"
    assert inserted(once, table) == once
    for wrong in ("none", document * 2):
        with pytest.raises(ValueError, match="places for the table"):
            inserted(wrong, table)


def test_the_page_tells_all_and_texts_stay_texts() -> None:
    hostile = "<script>alert(1)</script>\u202e"
    faulty = example(
        mutant=hostile, twin=f"EQ-1 failed: {hostile}", case=hostile, wrong_killers=(hostile,) * 4
    )
    missed = survivor(mutant="b", message=hostile, requirement=hostile)
    source = page(result(faulty, missed), {hostile: hostile, "b": hostile})
    shown = "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e"
    assert source.count(shown) >= 9
    assert len(re.findall("<script", source)) == 1  # our own, which the policy names
    assert "\u202e" not in source
    for said in (
        "1 of 2 wrong implementations rejected",
        "Survivors",
        "Right twins that fail",
        "Wrong killers",
    ):
        assert said in source
    good = page(result(example()), {"a": "It lies."})
    for unsaid in ('id="survivors"', 'id="twins"', 'id="wrong"'):
        assert unsaid in source
        assert unsaid not in good
