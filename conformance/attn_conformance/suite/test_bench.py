"""One test per workload and target named with --attn-impl; collected with --attn-bench alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attn_conformance.bench.asking import Timed
from attn_conformance.bench.store import View


@pytest.mark.attn_benchmark
def test_bench(workload: Timed, attn_view: View, request: pytest.FixtureRequest) -> None:
    """The target is not slower than what it is held against."""
    replace(workload, properties=request.node.user_properties, view=attn_view).verify()
