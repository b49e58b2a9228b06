"""The built wheel, installed beside nothing of ours: it is whole, and its commands work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"attn_reference": "reference", "attn_flash": "impl", "attn_conformance": "conformance"}


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command, in an environment that does not know this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel, and this environment's packages behind it."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    installed = folder / "bin" / "python"
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        installed,
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
    )
    run(*pip, wheel, cwd=folder)
    site = Path(
        run(installed, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    # Folders named in a .pth file are searched last, and their own .pth files (editable installs) are not read.
    (site / "dependencies.pth").write_text(
        "".join(f"{sysconfig.get_path(name)}\n" for name in ("purelib", "platlib")), encoding="utf-8"
    )
    return installed


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        information = {name.partition(".dist-info/")[2] for name in archive.namelist()} - {""}
    expected = {
        path.relative_to(ROOT / root).as_posix()
        for package, root in PACKAGES.items()
        for path in (ROOT / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= found
    assert {"attn_reference/SPECIFICATION.md", "attn_reference/requirements.toml"} <= found
    assert {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"} == information


def test_packages_come_from_the_wheel(python: Path, tmp_path: Path) -> None:
    code = "import " + ", ".join(PACKAGES) + "; print(*(m.__file__ for m in (" + ", ".join(PACKAGES) + ")))"
    assert all(
        Path(file).is_relative_to(python.parents[1]) for file in run(python, "-c", code, cwd=tmp_path).split()
    )


def test_list_names_the_registered_implementations(python: Path, tmp_path: Path) -> None:
    listed = run(python.parent / "attn-conformance", "list", cwd=tmp_path)
    for name in ("attn-flash", "numpy-reference", "torch-sdpa", "jax-attention"):
        assert listed.count(f"{name} ") == 1


def test_explain_finds_its_texts(python: Path, tmp_path: Path) -> None:
    explained = run(python.parent / "attn-conformance", "explain", "MASK-5", cwd=tmp_path)
    assert explained.startswith("MASK-5 (must, since version 1)")


def test_the_reference_conforms(python: Path, tmp_path: Path) -> None:
    asked = {"OUT-3", "MASK-1", "CAUSAL-3"}
    command = (
        "run",
        "numpy-reference",
        "--effort",
        "smoke",
        "--only",
        ",".join(asked),
        "--json",
        "result.json",
    )
    run(python.parent / "attn-conformance", *command, cwd=tmp_path)
    (result,) = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["results"]
    assert result["verdict"] == "conforms"
    statuses = {name: row["status"] for name, row in result["requirements"].items()}
    assert {name for name, status in statuses.items() if status == "passed"} == asked
