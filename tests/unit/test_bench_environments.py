"""Two revisions or versions, each in a process of its own, by the work that they count: no time is measured."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attn_conformance.bench import distant, environments
from attn_conformance.bench.environments import Environment
from attn_conformance.bench.results import Benchmarks
from attn_conformance.bench.workloads import Workload
from attn_conformance.cli import parser
from attn_conformance.commands import bench
from attn_conformance.loading import TargetError
from attn_conformance.report.bench import again

FORWARD = Workload("forward", 2, 4, 6, 6, 8, "float32", is_causal=True)
OTHER = replace(FORWARD, T=5, S=5)
TARGET = "fakeattn:attention"

COUNTED = """
spent = 0


def ticks():
    return spent
"""

SOURCE = """
import os
import sys

import counted
from attn_reference import attention as right


def attention(q, k, v, mask=None, is_causal=False):
    for _ in range(100):
        counted.spent += 10_000
    return right(q, k, v, mask=mask, is_causal=is_causal)
"""

SLOW = SOURCE.replace("range(100)", "range(106)")
WRONG = SOURCE.replace("is_causal=is_causal)", "is_causal=False)")
CRASHING = SOURCE.replace(
    "    return",
    "    if q.shape[2] == 5:\n        print('no way on', file=sys.stderr, flush=True)\n        os.abort()\n    return",
)


class Repository:
    """A git repository in which the target is imported from `src`."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> str:
        told = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
        command = ["git", *told, *arguments]
        return subprocess.run(command, cwd=self.top, capture_output=True, text=True, check=True).stdout

    def put(self, source: str, tag: str) -> None:
        (self.top / "src" / "fakeattn").mkdir(parents=True, exist_ok=True)
        (self.top / "src" / "fakeattn" / "__init__.py").write_text(source)
        (self.top / "counted.py").write_text(COUNTED)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", tag)
        self.git("tag", tag)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    top = tmp_path / "repository"
    top.mkdir()
    monkeypatch.chdir(top)
    monkeypatch.syspath_prepend(str(top))
    monkeypatch.syspath_prepend(str(top / "src"))
    monkeypatch.setattr(sys, "modules", {n: m for n, m in sys.modules.items() if n != "fakeattn"})
    return Repository(top)


def against(environment: Environment, base: str = TARGET, target: str = TARGET) -> Benchmarks:
    return distant.run(
        target, base, environment, workloads=(FORWARD, OTHER), ticks="counted:ticks", machine={}
    )


def test_a_planted_loop_is_found_and_the_repository_left_alone(repository: Repository) -> None:
    repository.put(SOURCE, "before")
    repository.put(SLOW, "after")
    with environments.revision("before", TARGET) as environment:
        result = against(environment)
    assert result.base == f"{TARGET} at before"
    assert again(result, FORWARD) == (
        f"attn-conformance bench {TARGET} --vs-revision before --only forward --dtype float32"
    )
    assert result.canary is not None
    assert result.canary.ratio == 1
    for benchmark in result.benchmarks:
        assert benchmark.problem is None
        assert benchmark.decision is not None
        assert benchmark.decision.verdict == "regressed"
        assert benchmark.decision.ratio == pytest.approx(1.06)
        assert benchmark.base is not None
        assert benchmark.base.seconds == pytest.approx([1e-3] * 12)
        assert 0 < (benchmark.candidate.error or 0) <= 1
    assert Benchmarks.from_json(result.to_json()) == result
    assert not environment.folder.exists()
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("worktree", "list").count("\n") == 1


def test_what_has_become_faster_is_fine(repository: Repository) -> None:
    repository.put(SLOW, "before")
    repository.put(SOURCE, "after")
    with environments.revision("HEAD~1", TARGET) as environment:
        decision = against(environment).benchmarks[0].decision
    assert decision is not None
    assert (decision.verdict, decision.ratio) == ("fine", pytest.approx(1 / 1.06))


def test_changes_that_are_not_committed_are_measured(repository: Repository) -> None:
    repository.put(SOURCE, "before")
    (repository.top / "src" / "fakeattn" / "__init__.py").write_text(SLOW)
    with environments.revision("HEAD", TARGET) as environment:
        decision = against(environment).benchmarks[0].decision
    assert decision is not None
    assert decision.ratio == pytest.approx(1.06)


def test_a_crash_is_a_problem_of_its_workload_and_has_last_words(repository: Repository) -> None:
    repository.put(CRASHING, "crashing")
    repository.put(SOURCE, "right")
    with environments.revision("crashing", TARGET) as environment:
        first, second = against(environment).benchmarks
    assert first.decision is not None
    assert first.decision.verdict == "fine"
    assert second.decision is None
    assert second.problem is not None
    assert f"{TARGET} at crashing: its process ended by SIGABRT" in second.problem
    assert "no way on" in second.problem


def test_a_new_process_takes_the_next_workload(repository: Repository) -> None:
    repository.put(SOURCE, "right")
    (repository.top / "src" / "fakeattn" / "__init__.py").write_text(CRASHING)
    with environments.revision("right", TARGET) as environment:
        result = distant.run(
            TARGET, TARGET, environment, workloads=(OTHER, FORWARD), ticks="counted:ticks", machine={}
        )
    assert [benchmark.decision is None for benchmark in result.benchmarks] == [True, False]


def test_wrong_results_do_not_count(repository: Repository) -> None:
    repository.put(WRONG, "wrong")
    repository.put(SOURCE, "right")
    with environments.revision("wrong", TARGET) as environment:
        result = against(environment)
    assert result.canary is None
    for benchmark in result.benchmarks:
        assert benchmark.decision is None
        assert "at wrong: the output of element" in (benchmark.problem or "")


def test_a_file_is_found_in_the_checkout_by_any_path(repository: Repository) -> None:
    repository.put(SLOW, "before")
    repository.put(SOURCE, "after")
    file = repository.top / "src" / "fakeattn" / "__init__.py"
    for target in (f"{file}:attention", "src/fakeattn/__init__.py:attention"):
        with environments.revision("before", target) as environment:
            decision = against(environment, target, target).benchmarks[0].decision
        assert decision is not None
        assert decision.ratio == pytest.approx(1 / 1.06)


def test_code_that_still_comes_from_the_work_tree_is_refused(repository: Repository) -> None:
    src = repository.top / "src"
    repository.put(f"import sys\nsys.path.insert(0, {str(src)!r})\nimport helping\n{SOURCE}", "before")
    (src / "helping.py").write_text("")
    with (
        environments.revision("before", TARGET) as environment,
        pytest.raises(
            TargetError, match=f"helping came from {repository.top} as it is, not from the revision"
        ),
    ):
        against(environment)


def test_what_a_revision_lacks_is_told(repository: Repository) -> None:
    repository.put(SOURCE, "before")
    (repository.top / "src" / "newer.py").write_text(SOURCE)
    with (
        environments.revision("before", "newer:attention") as environment,
        pytest.raises(TargetError, match=r"newer:attention at before: .*no module named 'newer'"),
    ):
        against(environment, "newer:attention", "newer:attention")


def test_revisions_that_cannot_be_had(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.put(SOURCE, "before")

    def refused(name: str, target: str, match: str) -> None:
        with pytest.raises((ValueError, TargetError), match=match), environments.revision(name, target):
            pass

    refused("lost", TARGET, "has no revision 'lost'")
    refused("--all", TARGET, "has no revision '--all'")
    refused("before", "mutant:scale-missing", "is the suite's own code")
    refused("before", "attn_reference:attention", "is the suite's own code")
    monkeypatch.chdir(tempfile.gettempdir())
    refused("before", TARGET, "is in no git repository")


def wheel(folder: Path, version: str, source: str) -> str:
    """A package that pip installs without building anything."""
    file = folder / f"fakeattn-{version}-py3-none-any.whl"
    about = f"fakeattn-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("fakeattn/__init__.py", source)
        archive.writestr("counted.py", COUNTED)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: fakeattn\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return str(file)


def test_a_package_is_installed_beside_what_is_here(repository: Repository, tmp_path: Path) -> None:
    repository.put(SLOW, "here")
    with environments.package(wheel(tmp_path, "1.2", SOURCE)) as environment:
        result = against(environment)
    assert result.benchmarks[0].decision is not None
    assert result.benchmarks[0].decision.ratio == pytest.approx(1.06)
    assert result.benchmarks[0].base is not None
    assert result.benchmarks[0].base.version == "1.2"


def test_a_package_that_the_target_does_not_use_is_no_base(repository: Repository, tmp_path: Path) -> None:
    repository.put(SOURCE, "here")
    (repository.top / "src" / "unlike.py").write_text("from attn_reference import attention")
    with environments.package(wheel(tmp_path, "1.2", SOURCE)) as environment:
        assert environment.own is not None
        (environment.own / "counted.py").unlink()
        with pytest.raises(TargetError, match="none of its code comes from what was asked for"):
            against(environment, "unlike:attention", "unlike:attention")


def test_a_package_that_there_is_not(tmp_path: Path) -> None:
    missing = str(tmp_path / "fakeattn-1.0-py3-none-any.whl")
    with (
        pytest.raises(ValueError, match=r"could not be installed; --vs-python takes .*ERROR"),
        environments.package(missing),
    ):
        pass


def interpreter(file: Path, *folders: Path | str) -> str:
    """This interpreter with another import path."""
    path = ":".join(map(str, folders))
    file.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} "$@"\n')
    file.chmod(0o755)
    return str(file)


def test_another_interpreter(repository: Repository, tmp_path: Path) -> None:
    repository.put(SLOW, "here")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "fakeattn.py").write_text(SOURCE)
    (elsewhere / "counted.py").write_text(COUNTED)
    with environments.interpreter(interpreter(tmp_path / "python", elsewhere)) as environment:
        decision = against(environment).benchmarks[0].decision
    assert decision is not None
    assert decision.ratio == pytest.approx(1.06)


def test_another_interpreter_with_the_same_code(repository: Repository, tmp_path: Path) -> None:
    repository.put(SLOW, "here")
    same = interpreter(tmp_path / "python", repository.top / "src", repository.top)
    with (
        environments.interpreter(same) as environment,
        pytest.raises(ValueError, match="are the same file"),
    ):
        against(environment)


def test_an_interpreter_that_cannot_serve(repository: Repository, tmp_path: Path) -> None:
    repository.put(SOURCE, "here")
    lame = tmp_path / "lame"
    lame.write_text("#!/bin/sh\necho no numpy here >&2\nexit 3\n")
    lame.chmod(0o755)
    with (
        environments.interpreter(str(lame)) as environment,
        pytest.raises(TargetError, match="its process ended with exit status 3; no numpy here"),
    ):
        against(environment)
    with (
        pytest.raises(ValueError, match="there is no interpreter"),
        environments.interpreter("no-such-python"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "called", "of", "base"),
    [
        (["--vs-revision", "v1"], "revision", ("v1", "a:b"), "a:b"),
        (["--vs-revision", "v1", "--vs", "c:d"], "revision", ("v1", "c:d"), "c:d"),
        (["--vs-package", "x==1"], "package", ("x==1",), "a:b"),
        (["--vs-python", "py"], "interpreter", ("py",), "a:b"),
    ],
)
def test_options(
    options: list[str], called: str, of: tuple[str, ...], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment("there", "python", None, Path())
    said: list[Any] = []

    def chosen(name: str) -> Callable[..., Any]:
        def choose(*given: str) -> Any:
            said.append((name, given))
            return nullcontext(environment)

        return choose

    def run(*given: Any, **more: Any) -> None:
        said.append((*given, more["only"], more["seed"]))

    for name in ("revision", "package", "interpreter"):
        monkeypatch.setattr(environments, name, chosen(name))
    monkeypatch.setattr(distant, "run", run)
    bench.measured(
        parser().parse_args(["bench", "a:b", "--only", "decode", "--seed", "3", "--quiet", *options])
    )
    assert said == [(called, of), ("a:b", base, environment, ("decode",), 3)]


def test_one_environment_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["bench", "a:b", "--vs-revision", "x", "--vs-python", "y"])
    assert "not allowed with" in capsys.readouterr().err


def test_errors_are_told_in_a_sentence(repository: Repository) -> None:
    repository.put(SOURCE, "before")
    console = Console(record=True, width=200)
    options = parser().parse_args(["bench", TARGET, "--vs-revision", "lost", "--quiet"])
    assert bench.command(options, console, console) == 2
    assert "cannot measure: " in console.export_text()
