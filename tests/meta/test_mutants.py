"""Mutants and requirements cover each other, and right twins conform. tests/quality/test_mutants.py judges mutants."""

import pytest

from attn_conformance.mutants import mutants
from attn_conformance.registry import checks
from attn_conformance.runner import run
from attn_conformance.targets import subject
from attn_reference.requirements import load_requirements

MUTANTS = mutants()
TABLE = load_requirements()
SEED = 0


@pytest.mark.parametrize("kind", ["kernel", "module"])
def test_every_must_and_should_that_is_checked_has_a_mutant_that_it_kills(kind):
    named = {mutant.requirement for mutant in mutants(kind).values()}
    judged = {name for name, found in checks().items() if any(kind in check.kinds for check in found)}
    for name in judged:
        if kind in TABLE[name].kinds and TABLE[name].level != "observed":
            assert name in named, name


@pytest.mark.parametrize("kind", ["kernel", "module"])
def test_every_requirement_has_a_check_or_is_planned_and_every_check_a_requirement(kind):
    applying = {r.id for r in TABLE.values() if kind in r.kinds and not r.benched}
    checked = {name for name, found in checks().items() if any(kind in check.kinds for check in found)}
    assert applying <= checked
    assert checked <= set(TABLE)


DISTINCT_TWINS = {id(mutant.twin): name for name, mutant in MUTANTS.items()}


@pytest.mark.parametrize("name", sorted(DISTINCT_TWINS.values()))
def test_twins_conform(name):
    found, refused = subject(f"twin:{name}")
    report = run(found, effort="smoke", seed=SEED, refused=refused)
    failed = {
        row.requirement: row.message for row in report.rows.values() if row.status in ("failed", "error")
    }
    assert failed == {}
