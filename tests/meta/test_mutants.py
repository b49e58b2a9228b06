"""The suite against wrong kernels: each is rejected by the requirement named for it, and its right twin is not."""

import pytest

from attn_conformance.mutants import mutants
from attn_conformance.registry import checks
from attn_conformance.runner import run
from attn_conformance.targets import subject
from attn_reference.requirements import load_requirements

MUTANTS = mutants()
TABLE = load_requirements()
SEED = 0


def row_of(target, requirement, **options):
    found, refused = subject(target)
    return run(found, seed=SEED, only=(requirement,), refused=refused, **options).rows[requirement]


TWINS = {}
"""What a twin was found to be: many mutants of a requirement share one."""


def twin_of(name):
    mutant = MUTANTS[name]
    key = (id(mutant.twin), mutant.claims, mutant.requirement)
    if key not in TWINS:
        TWINS[key] = row_of(f"twin:{name}", mutant.requirement)
    return TWINS[key]


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_the_requirement_named_for_it_rejects_the_mutant_and_not_its_twin(name):
    requirement = MUTANTS[name].requirement
    twin = twin_of(name)
    assert (twin.status, twin.message) == ("passed", None)
    mutant = row_of(f"mutant:{name}", requirement)
    assert mutant.status == "failed"
    assert mutant.counterexample is not None


WANTS_TORCH = {"CTOR-3", "HOST-1", "HOST-2", "HOST-3", "HOST-4"}
"""Requirements about PyTorch's own ways, whose wrong modules stand in tests/meta/test_hosts.py."""


@pytest.mark.parametrize("kind", ["kernel", "module"])
def test_every_must_and_should_that_is_checked_has_a_mutant_that_it_kills(kind):
    named = {mutant.requirement for mutant in mutants(kind).values()}
    judged = {name for name, found in checks().items() if any(kind in check.kinds for check in found)}
    for name in judged - WANTS_TORCH:
        if kind in TABLE[name].kinds and TABLE[name].level != "observed":
            assert name in named, name


@pytest.mark.parametrize("kind", ["kernel", "module"])
def test_every_requirement_has_a_check_or_is_planned_and_every_check_a_requirement(kind):
    applying = {r.id for r in TABLE.values() if kind in r.kinds and not r.planned}
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
