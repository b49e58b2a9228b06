"""The suite against right kernels, as unlike each other as possible: no requirement accuses any of them."""

import os
from pathlib import Path

import pytest

from attn_conformance.cases.events import EVENTS, SCRIPT_EVENTS
from attn_conformance.controls import controls
from attn_conformance.runner import run
from attn_conformance.targets import subject

ROOT = Path(__file__).parents[2]
SEEDS = range(int(os.environ.get("ATTN_CONTROL_SEEDS", "1")))
"""More seeds take minutes each; a change of generators, bounds or checks is tried with 20."""


def accused(report):
    return {row.requirement: row.message for row in report.rows.values() if row.status in ("failed", "error")}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(controls()))
def test_controls_pass(name, seed):
    found, refused = subject(f"control:{name}")
    assert refused == {}
    assert accused(run(found, effort="smoke", seed=seed)) == {}


@pytest.mark.parametrize(
    ("target", "events"),
    [
        ("attn-flash", set(SCRIPT_EVENTS)),
        ("attn-flash-kernel", set()),
        ("numpy-reference", set(EVENTS) | set(SCRIPT_EVENTS)),
        ("numpy-reference-kernel", set(EVENTS)),
    ],
)
def test_our_own_implementations_conform_and_every_situation_occurs(target, events):
    found, refused = subject(target)
    assert refused == {}
    report = run(found)
    assert accused(report) == {}
    assert report.verdict == "conforms"
    assert [event for event, count in report.events.items() if not count] == []
    assert set(report.events) >= events


def test_the_growing_cache_conforms():
    found, refused = subject(f"{ROOT}/examples/kv_cache.py:WithKVCache")
    assert refused == {}
    assert accused(run(found, only=("CACHE", "CAUSAL", "ERR", "HOST", "OUT-4"))) == {}


def test_the_plain_module_conforms_and_holds_its_scores():
    found, refused = subject(f"{ROOT}/examples/torch_module.py:Attention")
    assert refused == {}
    report = run(found, effort="smoke")
    assert set(accused(report)) == {"MEM-1"}
    assert report.verdict == "conforms"


def test_pytorch_differs_as_it_documents_hides_nan_and_adds_gradients_up_coarsely():
    # Without a mask and with fewer keys than a vector register holds, the CPU flash kernel gives 0 where a query or
    # all keys are NaN. In half precision it rounds the gradients of k and v after each block of queries.
    found, refused = subject("torch.nn.functional:scaled_dot_product_attention")
    assert refused == {}
    report = run(found)
    assert report.verdict == "fails"
    assert set(accused(report)) == {"GRAD-2", "NUM-4"}
    assert {row.requirement for row in report.rows.values() if row.declared} == {"CAUSAL-3", "MASK-2"}
