"""The guides tell the truth: commands parse, code runs, links lead somewhere, and the failure they read is real."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from math import expm1
from pathlib import Path

import pytest
import yaml

from attn_conformance.bench.baseline import ALONE, BESIDE
from attn_conformance.bench.gate import PASSING
from attn_conformance.bench.history import ALPHA
from attn_conformance.bench.machine import DIFFERENCE
from attn_conformance.bench.rule import Rule
from attn_conformance.cli import main, parser
from attn_conformance.conventions import CONVENTIONS
from attn_conformance.expectations import expectations
from attn_conformance.implementation import PARAMETERS
from attn_conformance.judge import Failed
from attn_conformance.loading import GROUP
from attn_conformance.report.bench import BADGES
from attn_conformance.results import Row
from attn_conformance.runner import run
from attn_conformance.targets import subject
from attn_reference import FEATURES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "guides"
GUIDES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
READING, WRITING = GUIDES["reading-a-failure.md"], GUIDES["writing-an-implementation.md"]
BENCHMARKS = GUIDES["benchmarks.md"]
ADAPTER = "examples/adapter.py"

NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands() -> list[str]:
    """Every attn-conformance command with its arguments, in blocks and in prose."""
    found = []
    for text in GUIDES.values():
        lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
        assert all(line.startswith(("attn-conformance ", "pytest ")) for line in lines)
        found += [line for line in lines if line.startswith("attn-conformance ")]
        prose = " ".join(re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S).split())
        found += re.findall(r"`(attn-conformance [^`]*)`", prose)
    return [command for command in found if len(shlex.split(command)) > 2]


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, Path(ADAPTER).stem, raising=False)


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parser().parse_args(shlex.split(command)[1:])
    except SystemExit:
        pytest.fail(said.getvalue())


@pytest.mark.parametrize("name", GUIDES)
def test_links_into_the_repository_lead_somewhere(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", GUIDES[name]) if not link.startswith("http")]
    assert [link for link in links if not (FOLDER / link).exists()] == []


def alike(shown: str, seen: str) -> bool:
    """The same words, and numbers that differ by no more than machines do."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", seen):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(seen), strict=True)
    return all(float(a) == pytest.approx(float(b), rel=0.01) for a, b in pairs)


def test_the_failure_that_is_read_is_what_a_run_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (name, requirement, shown) = re.search(
        r"^<!-- story: (\S+) (\S+) -->\n```text\n(.*?)\n```$", READING, re.M | re.S
    ).groups()  # type: ignore[union-attr]
    command = f"attn-conformance run {name} --only {requirement} --quiet"
    assert f"{command}\n" in blocks(READING, "sh")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 1
    lines = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    seen = "\n".join(lines[: len(shown.splitlines())])
    assert alike(shown, seen), f"docs/guides/reading-a-failure.md shows another story; it is now\n{seen}"


def test_every_line_of_the_story_is_explained() -> None:
    (story,) = blocks(READING, "text")
    starts = set(re.findall(r"^  +([a-z ]+?)(?:: | \[| after )", story, re.M))
    assert starts == {"smallest case", "what happened", "first", "worst", "likely cause", "found", "script"}
    explained = "\n".join(line for line in READING.splitlines() if line.startswith("**`"))
    assert all(f"`{start}" in explained for start in starts)


def test_the_case_goes_from_a_result_file_into_a_debugger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = [line for line in blocks(READING, "sh") if "--json" in line]
    (code,) = blocks(READING, "python")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 1
    rows = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["results"][0]["requirements"]
    row = Row.from_json("CACHE-2", rows["CACHE-2"])
    shown = io.StringIO()
    with redirect_stdout(shown), pytest.raises(Failed) as failed:
        exec(compile(code, "reading-a-failure.md", "exec"), {})
    assert shown.getvalue() == f"{row.summary}\n"
    assert failed.value.message == row.message


def test_the_adapter_of_the_guide_is_that_of_the_examples() -> None:
    source = (ROOT / ADAPTER).read_text(encoding="utf-8")
    (shown,) = re.findall(rf"^<!-- code: {ADAPTER} -->\n```python\n(.*?)^```$", WRITING, re.M | re.S)
    assert source.endswith("\n\n" + shown)
    code = [line for line in shown.splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 20
    assert "attn_conformance" not in source  # the guide says that nothing but Claims is imported
    imports = re.findall(r"`((?:import|from) [^`]*)`", WRITING)
    assert len(imports) == 2
    assert all(f"\n{line}\n" in source for line in imports)


@pytest.mark.usefixtures("in_root")
def test_the_adapter_conforms_and_its_claims_leave_out_what_the_guide_says() -> None:
    found, refused = subject(f"{ADAPTER}:adapter")
    report = run(found, effort="smoke", refused=refused)
    assert report.verdict == "conforms"
    assert [name for name, row in report.rows.items() if row.status in ("failed", "error")] == ["ERR-2"]
    musts = [row for row in report.rows.values() if row.level == "must" and not row.benched]
    judged = [row for row in musts if row.status == "passed"]
    assert f" {len(judged)} of {len(musts)} must-requirements" in WRITING
    assert {"CACHE-2", "CACHE-3", "CACHE-7", "CAUSAL-1"} <= {row.requirement for row in judged}


def test_names_are_those_of_the_contract() -> None:
    table = re.findall(r"^\| (`.*?`) \|", WRITING, re.M)
    named = re.findall(r"`([\w-]+)`", " ".join(table))
    assert named
    assert set(named) <= FEATURES.keys()
    assert all(f"`{name}`" in WRITING for name in (*PARAMETERS, *CONVENTIONS))
    (toml,) = blocks(WRITING, "toml")
    assert tomllib.loads(toml)["project"]["entry-points"].keys() == {GROUP}


def test_the_expected_failure_of_the_guide_is_read(tmp_path: Path) -> None:
    (toml,) = blocks(READING, "toml")
    (tmp_path / "expected.toml").write_text(toml, encoding="utf-8")
    assert expectations(tmp_path / "expected.toml").keys() == {"CACHE-2"}


def test_the_difference_of_the_guide_is_one() -> None:
    scope: dict[str, object] = {}
    exec(compile(blocks(WRITING, "python")[1], "writing-an-implementation.md", "exec"), scope)
    (difference,) = scope["differences"]  # type: ignore[misc]
    assert difference.requirement == "MASK-1"


def test_options_of_pytest_in_the_guides_exist() -> None:
    (workflow,) = blocks(BENCHMARKS, "yaml")
    lines = [line for text in GUIDES.values() for block in blocks(text, "sh") for line in block.splitlines()]
    lines += [step["run"] for step in yaml.safe_load(workflow)]
    used = {word.partition("=")[0] for line in lines if line.startswith("pytest ") for word in line.split()}
    used |= set(re.findall(r"`(--[a-z-]+)[` ]", BENCHMARKS)) - {"--only", "--markdown", "--vs", "--vs-python"}
    named = {word for word in used if word.startswith("--")}
    assert {"--attn-bench", "--attn-vs", "--attn-baseline", "--attn-inconclusive"} <= named
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, timeout=300
    )
    assert [
        name for name in sorted(named) if f"{name} " not in done.stdout and f"{name}=" not in done.stdout
    ] == []


def below(comment: str) -> list[list[str]]:
    """The cells of the table that stands below a comment in the guide to benchmarks, without its head."""
    table = BENCHMARKS.partition(f"<!-- {comment} -->")[2].lstrip().partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_answers_of_benchmarks_are_those_that_there_are() -> None:
    table = {cells[0]: cells[1:] for cells in below("states")}
    assert table.keys() == {badge.word for badge in BADGES.values()}
    for state, badge in BADGES.items():
        assert table[badge.word][0].startswith("passes" if state in PASSING else "fails")
    rule = Rule()
    assert f"more than {1 + rule.margin:.2f} times" in table["slower"][1]
    assert f"less than {1 + rule.delta:.2f} times" in table["not slower"][1]
    assert f"{1 - rule.alpha:.0%}".replace("%", " %") in table["slower"][1]
    assert f"more than {rule.noise:.0%}".replace("%", " %") in table["inconclusive"][1]
    assert f"within {DIFFERENCE:.0%}".replace("%", " %") in BENCHMARKS
    assert ALPHA == 0.01


def test_the_spreads_of_baselines_are_those_that_are_allowed_for() -> None:
    for first, *cells in below("spread"):
        clock = first.partition(":")[0]
        allowed = [expm1(spread[clock]) for spread in (ALONE, BESIDE)]  # type: ignore[index]
        assert [float(cell.removesuffix(" %")) / 100 for cell in cells] == [
            pytest.approx(a, rel=0.03) for a in allowed
        ]
