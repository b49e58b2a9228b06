"""Who imports whom, and what an import costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = os.pathsep.join(str(ROOT / name) for name in ("reference", "impl", "conformance"))


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with the three source roots."""
    environment = os.environ | {"PYTHONPATH": ROOTS}
    command = (sys.executable, *arguments)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def loaded(code: str) -> set[str]:
    """Top-level names of the modules that running `code` has imported."""
    report = "\nimport sys; print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    done = python("-c", code + report)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_import_contracts() -> None:
    done = python("-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_importing_the_suite_imports_the_standard_library_alone() -> None:
    ours = loaded("import attn_conformance") - loaded("")
    assert not ours & {"numpy", "hypothesis", "rich", "torch", "jax", "pytest", "ml_dtypes", "attn_reference"}


def test_the_pytest_plugin_imports_pytest_alone() -> None:
    ours = loaded("import attn_conformance.pytest_plugin") - loaded("import pytest")
    assert ours == {"attn_conformance"}


def test_a_pytest_run_without_our_tests_pays_for_the_plugin_alone() -> None:
    ours = loaded("import pytest; assert pytest.main(['--markers', '--noconftest']) == 0")
    assert "attn_conformance" in ours
    assert not ours & {"numpy", "hypothesis", "rich", "torch", "jax", "ml_dtypes", "attn_reference"}


def test_importing_the_reference_imports_no_framework() -> None:
    assert not loaded("import attn_reference") & {"torch", "jax", "hypothesis", "rich", "attn_conformance"}


@pytest.mark.parametrize("arguments", [["list"], ["explain", "EQ-3"]])
def test_commands_that_judge_no_torch_function_import_no_framework(arguments: list[str]) -> None:
    modules = loaded(f"from attn_conformance.cli import main; main({arguments})")
    assert "rich" in modules
    assert not modules & {"torch", "jax"}


def test_a_numpy_function_is_judged_without_torch() -> None:
    code = "from attn_conformance.cli import main; main(['run', 'numpy-reference', '--only', 'OUT-6'])"
    assert not loaded(code) & {"torch", "jax"}


@pytest.mark.parametrize("package", ["attn_reference", "attn_flash"])
def test_wrong_calls_raise_also_where_assert_statements_are_gone(package: str) -> None:
    zeros = {"attn_reference": "numpy", "attn_flash": "torch"}[package]
    code = f"from {zeros} import zeros; from {package} import attention; q = zeros((1, 2, 3, 4)); attention(q, q, q[0])"
    done = python("-O", "-c", code)
    assert done.stderr.splitlines()[-1].startswith("ValueError: v must have rank 4"), done.stderr
