"""The suite against wrong kernels: each is rejected by the requirement named for it, and its right twin is not."""

import pytest

from attn_conformance.mutants import mutants
from attn_conformance.registry import checks
from attn_conformance.runner import run
from attn_conformance.targets import subject
from attn_reference.requirements import load_requirements

MUTANTS = mutants()
SEED = 0


def row_of(target, requirement, **options):
    found, refused = subject(target)
    return run(found, seed=SEED, only=(requirement,), refused=refused, **options).rows[requirement]


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_the_requirement_named_for_it_rejects_the_mutant_and_not_its_twin(name):
    requirement = MUTANTS[name].requirement
    twin = row_of(f"twin:{name}", requirement)
    assert (twin.status, twin.message) == ("passed", None)
    mutant = row_of(f"mutant:{name}", requirement)
    assert mutant.status == "failed"
    assert mutant.counterexample is not None


def test_every_must_that_is_checked_has_a_mutant_that_it_kills():
    named = {mutant.requirement for mutant in MUTANTS.values()}
    table = load_requirements()
    musts = {name for name in checks() if table[name].level == "must"}
    assert musts <= named
    assert {name for name in checks() if table[name].level == "should"} <= named


def test_every_requirement_of_kernels_has_a_check_or_is_planned_and_every_check_a_requirement():
    kernels = {r.id: r for r in load_requirements().values() if "kernel" in r.kinds}
    assert {name for name, r in kernels.items() if not r.planned} == set(checks())


DISTINCT_TWINS = {id(mutant.twin): name for name, mutant in MUTANTS.items()}


@pytest.mark.parametrize("name", sorted(DISTINCT_TWINS.values()))
def test_twins_conform(name):
    found, refused = subject(f"twin:{name}")
    report = run(found, effort="smoke", seed=SEED, refused=refused)
    failed = {
        row.requirement: row.message for row in report.rows.values() if row.status in ("failed", "error")
    }
    assert failed == {}
