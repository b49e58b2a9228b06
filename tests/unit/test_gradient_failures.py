"""Failures of gradients: their likely causes, and the scripts that show them."""

import pytest

from attn_conformance.causes import gradients, likely_cause
from attn_conformance.exploration import explore
from attn_conformance.mutants import mutants
from attn_conformance.registry import checks
from attn_conformance.reproducer import execute_in_subprocess, reproducer
from attn_conformance.runner import run
from attn_conformance.targets import subject

CAUSES = {
    "row-term-missing": "row-term-missing",
    "key-gradient-not-scaled": "gradient-not-scaled",
    "query-gradient-scaled-twice": "gradient-scaled-twice",
    "mask-missing-in-the-backward-pass": "mask-missing-in-backward",
    "gradient-of-the-last-head-of-a-group": "last-head-of-group",
    "mask-gradient-not-summed": "mask-gradient-not-summed",
    "mask-without-gradient": "no-gradient",
    "values-detached-in-qkv-attention": "no-gradient",
}
SENTENCES = {cause.name: cause.sentence for cause in gradients.CAUSES}


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_of_a_wrong_gradient_is_named(name):
    found, _ = subject(f"mutant:{name}")
    requirement = mutants()[name].requirement
    row = run(found, only=(requirement,), explain=True).rows[requirement]
    assert row.cause == SENTENCES[CAUSES[name]]


def first_failure(name, number=0):
    """The subject of a mutant, the check that fails, and the smallest case."""
    found, _ = subject(f"mutant:{name}")
    mine = [c for c in checks()[mutants()[name].requirement] if found.kind in c.kinds]
    tally = explore(mine[number], found, examples=60, seed_value=1)
    assert tally.last is not None
    return found, mine[number], *tally.last


def test_an_output_gradient_in_memory_order_is_recognised():
    _, _, case, failed = first_failure("output-gradient-read-in-memory-order")
    cause = likely_cause((case, failed))
    assert cause is not None
    assert cause.name == "output-gradient-misread"


def test_nothing_is_said_where_another_gradient_would_do_as_well():
    found, _, case, failed = first_failure("value-gradient-of-unnormalised-weights")
    assert likely_cause((case, failed)) is None
    assert found.kind == "kernel"


SCRIPTS = {
    "weights-kept-in-one-buffer": 1,
    "output-gradient-scaled-in-place": 0,
    "expanded-output-gradient-of-a-module-counted-once": 0,
    "bias-of-queries-without-gradient": 0,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_shows_the_wrong_gradient(name):
    found, check, case, failed = first_failure(name, SCRIPTS[name])
    made = reproducer(check, found, case, failed, execute_in_subprocess)
    assert made.script is not None, made.reason
    assert made.script.count("\n") < 40
    assert f'sys.exit(f"{check.requirement}: the gradient of ' in made.script or "in place" in made.script


def test_where_there_is_no_script_the_reason_is_told():
    found, check, case, failed = first_failure("second-gradients-are-zero")
    made = reproducer(check, found, case, failed, execute_in_subprocess)
    assert made.script is None
    assert made.reason.startswith("gradients of gradients")
