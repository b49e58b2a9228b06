"""Runs on real libraries fail what docs/findings expects, and accuse of nothing else; where they are installed."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from attn_conformance.expectations import expectations
from attn_conformance.runner import run
from attn_conformance.targets import subject

FINDINGS = Path(__file__).parents[2] / "docs" / "findings"
PACKAGES = {
    "espnet": {"espnet": "202412", "torch": "2.13.0"},
    "whisper": {"openai-whisper": "20250625", "torch": "2.13.0"},
    "whisper-manual": {"openai-whisper": "20250625", "torch": "2.13.0"},
    "nn-mha": {"torch": "2.13.0"},
    "nn-mha-weights": {"torch": "2.13.0"},
    "torch-sdpa": {"torch": "2.13.0"},
    "ort-attention": {"onnxruntime": "1.32.0", "onnx": "1.23.2"},
    "torchtune": {"torchtune": "0.6.1", "torch": "2.13.0"},
}
ESPNET_CLASS = "espnet2.speechlm.module.transformer:MultiHeadAttention"
SLOW = {"whisper", "whisper-manual", "nn-mha", "nn-mha-weights", "torch-sdpa", "ort-attention", "torchtune"}
"""Half a minute each: run where ATTN_PEERS is set."""


def expected(peer):
    return expectations(FINDINGS / peer / "expected.toml")


def installed(peer):
    for package, wanted in PACKAGES[peer].items():
        try:
            found = version(package).partition("+")[0]
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
        if found != wanted:
            pytest.skip(f"seen with {package} {wanted}, {found} is installed")


def failing(target, peer):
    """What fails; nothing stands back behind a failure that is expected."""
    found, refused = subject(target)
    rows = run(found, refused=refused, expected_failures=expected(peer)).rows.values()
    return {row.requirement for row in rows if row.expected or row.status in ("failed", "error")}


@pytest.mark.parametrize("peer", PACKAGES)
def test_expectations_name_requirements_and_give_reasons_and_scripts_that_exist(peer):
    for entry in expected(peer).values():
        assert entry.reason.partition(":")[0] in ("bug", "documented", "silent")
        assert (FINDINGS / peer / (entry.script or "expected.toml")).is_file()


@pytest.mark.parametrize("peer", ["espnet", "torch-sdpa"])
def test_every_failure_of_these_is_backed_by_a_script(peer):
    assert all(entry.script for entry in expected(peer).values())


@pytest.mark.parametrize("peer", PACKAGES)
def test_a_run_fails_what_is_expected_and_nothing_else(peer):
    installed(peer)
    if peer in SLOW and not os.environ.get("ATTN_PEERS"):
        pytest.skip("slow; ATTN_PEERS=1 asks for it")
    assert failing(peer, peer) == set(expected(peer))


def test_the_class_of_espnet_gives_the_same_by_its_path():
    installed("espnet")
    assert failing(ESPNET_CLASS, "espnet") == set(expected("espnet"))
