"""Requirements about life in PyTorch reject modules that live there wrongly, and accept their right twin.

Most such lies are mutants (attn_conformance.mutants.modules.hosts); these here are told of attn_flash.
"""

from pathlib import Path

import pytest

from attn_conformance.runner import run
from attn_conformance.targets import subject

FILE = Path(__file__).with_name("wrong_in_pytorch.py")
KILLS = {
    "OldWeightsAfterDeepcopy": "HOST-1",
    "BiasStaysInFloat32": "HOST-1",
    "SlipsUnderInferenceMode": "HOST-4",
}


def row_of(name, requirement):
    found, refused = subject(f"{FILE}:{name}")
    return run(found, only=(requirement,), refused=refused).rows[requirement]


@pytest.mark.parametrize("name", KILLS)
def test_the_requirement_named_for_it_rejects_the_module(name):
    row = row_of(name, KILLS[name])
    assert row.status == "failed"
    assert row.counterexample is not None


@pytest.mark.parametrize("requirement", sorted(set(KILLS.values())))
def test_their_right_twin_passes(requirement):
    row = row_of("Right", requirement)
    assert (row.status, row.message) == ("passed", None)
