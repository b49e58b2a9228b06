"""Scripts in docs/findings exit 1 on the library that they name, and 0 on the reference."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import attn_reference
from attn_reference.requirements import load_requirements

ROOT = Path(__file__).parents[2] / "docs" / "findings"
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("*/*.py"))
CUDA = [script for script in SCRIPTS if Path(script).parent.name.endswith("-cuda")]
ON_CPU = [script for script in SCRIPTS if script not in CUDA]
SEEN = re.compile(r"^# Seen in (\S+) (\S+)\.$", re.M)


def source(script: str) -> str:
    return (ROOT / script).read_text(encoding="utf-8")


def requirement(script: str) -> str:
    """The id in a script's name: causal_6.py is about CAUSAL-6, and so is causal_6_again.py."""
    return "-".join(Path(script).stem.upper().split("_")[:2])


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = [str(Path(attn_reference.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_is_short_and_names_its_requirement_and_version(script: str) -> None:
    text = source(script)
    assert len(text.splitlines()) < 40
    assert text.startswith(f'"""{requirement(script)}: ')
    assert requirement(script) in load_requirements()
    assert SEEN.search(text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_reference_does_what_is_required(script: str) -> None:
    done = run(script, "reference")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", ON_CPU)
def test_the_library_does_not(script: str) -> None:
    expect_a_failure_where_it_was_seen(script)


@pytest.mark.parametrize("script", CUDA)
def test_without_a_device_there_is_no_verdict_and_with_one_the_library_does_not(script: str) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    import torch

    if torch.cuda.is_available():
        expect_a_failure_where_it_was_seen(script)
    else:
        done = run(script)
        assert (done.returncode, done.stderr) == (2, "no verdict: there is no CUDA device\n")


def expect_a_failure_where_it_was_seen(script: str) -> None:
    (seen,) = SEEN.findall(source(script))
    try:
        installed = version(seen[0]).partition("+")[0]
    except PackageNotFoundError:
        pytest.skip(f"{seen[0]} is not installed")
    if installed != seen[1]:
        pytest.skip(f"seen in {' '.join(seen)}, {installed} is installed")
    done = run(script)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{requirement(script)}: ")


def test_the_page_lists_each_script_and_no_other() -> None:
    assert sorted(re.findall(r"\]\(([\w-]+/\w+\.py)\)", PAGE)) == SCRIPTS
