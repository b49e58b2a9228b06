"""The source roots, the pins and the changelog: what the build and the gate take for granted."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL_PEERS = {"jax"}  # judged where it is installed; the gate runs without


@pytest.mark.parametrize(
    ("root", "package"),
    [("reference", "attn_reference"), ("impl", "attn_flash"), ("conformance", "attn_conformance")],
)
def test_a_source_root_holds_its_package_alone(root: str, package: str) -> None:
    # A stray module beside the package imports in editable mode and is missing from the wheel.
    found = {path.name for path in (ROOT / root).iterdir() if path.name != "__pycache__"}
    assert found == {package}


def test_every_dependency_is_pinned_for_the_gate_at_a_version_that_is_allowed() -> None:
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    wanted = [*PROJECT["dependencies"], *(r for rs in PROJECT["optional-dependencies"].values() for r in rs)]
    for requirement in map(Requirement, wanted):
        if requirement.name not in OPTIONAL_PEERS | {PROJECT["name"]}:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_the_changelog_begins_with_the_version_of_the_project() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.M)
    assert newest is not None
    assert newest[1] == PROJECT["version"]
