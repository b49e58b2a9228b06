"""README.md tells the truth: its commands parse, its code runs, its links lead somewhere, its finding is real."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from attn_conformance.cli import main, parser
from attn_conformance.conventions import CONVENTIONS
from attn_conformance.pytest_plugin import pytest_addoption
from attn_conformance.results import Report
from attn_conformance.runner import run
from attn_conformance.targets import subject

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
EXAMPLE = "examples/numpy_kernel.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def commands() -> list[str]:
    """Every attn-conformance command with its arguments, in blocks and in prose."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    prose = re.findall(r"`(attn-conformance [^`]*)`", README)
    return [line for line in lines if line.startswith("attn-conformance ")] + prose


def marked(name: str) -> list[str]:
    """The command under the comment `<!-- command: NAME -->`, as .ci/run takes it."""
    (found,) = re.findall(rf"^<!-- command: {name} -->\n```sh\n(.*?)^```$", README, re.M | re.S)
    return str(found).splitlines()


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, Path(EXAMPLE).stem, raising=False)


def judged(target: str, *only: str) -> Report:
    found, refused = subject(target)
    return run(found, effort="smoke", only=only, refused=refused)


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    options = parser().parse_args(shlex.split(command)[1:])
    assert options.verb in ("run", "list", "explain", "report", "bench", "selftest")


def test_the_two_commands_set_up_and_do_their_job() -> None:
    set_up = "python3 -m venv .venv && . .venv/bin/activate"
    assert marked("run") == [set_up, "pip install '.[torch]'", "attn-conformance run attn-flash"]
    assert marked("test") == [set_up, "pip install -e '.[dev]'", "pytest -n auto"]


def test_python_blocks_run() -> None:
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_the_example_is_the_file_and_has_ten_lines() -> None:
    (shown,) = (block for block in blocks("python") if "import numpy" in block)
    source = (ROOT / EXAMPLE).read_text(encoding="utf-8")
    assert source.endswith("\n" + shown)
    body = shown[shown.index("def ") :].splitlines()
    assert sum('"""' not in line for line in body) == 10


@pytest.mark.usefixtures("in_root")
def test_the_example_conforms() -> None:
    report = judged(f"{EXAMPLE}:attention")
    assert report.verdict == "conforms"
    failed = [name for name, row in report.rows.items() if row.status in ("failed", "error")]
    assert failed == ["MEM-1"]  # a should: it holds its scores


def test_what_it_caught_is_told_as_it_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATTN_CONFORMANCE_DIR", str(tmp_path))
    (shown,) = (block for block in blocks("text") if "CACHE-2 failed" in block)
    (command,) = (c for c in commands() if c.startswith("attn-conformance run mutant:"))
    assert main(shlex.split(f"{command} --quiet")[1:]) == 1
    told = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    for line in shown.splitlines():
        assert line.startswith("$ ") or line in told


def test_every_convention_has_its_line() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", README, re.M) == list(CONVENTIONS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_into_the_repository_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith(("http", "#"))]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_paths_in_text_exist() -> None:
    for path in re.findall(
        r"(?<![\w/.])((?:examples|conformance|reference|impl|tests|docs)/[\w/.-]+)", README
    ):
        assert (ROOT / path.rstrip(".")).exists(), path


def test_the_options_of_the_pytest_plugin_are_all_named() -> None:
    options: list[str] = []
    group = SimpleNamespace(addoption=lambda name, **_: options.append(name))
    pytest_addoption(cast(pytest.Parser, SimpleNamespace(getgroup=lambda *_: group)))
    assert set(re.findall(r"--attn-[a-z-]+[a-z]", README)) == set(options)
