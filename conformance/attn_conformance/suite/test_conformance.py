"""One test per requirement and target named with --attn-impl."""

from __future__ import annotations

import pytest

from attn_conformance.asking import Asked


@pytest.mark.attn_conformance
def test_conformance(requirement: Asked) -> None:
    """The target does what the requirement says."""
    requirement.verify()
