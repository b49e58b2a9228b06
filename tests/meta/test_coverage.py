"""What the wrong implementations are about: every bug class, must-requirement and kind of trouble, more than once."""

from collections import Counter

import pytest

from attn_conformance.controls import controls
from attn_conformance.mutants import BUG_CLASSES, mutants
from attn_reference.requirements import load_requirements

MUTANTS = mutants()
TABLE = load_requirements()
KILLED = Counter(mutant.requirement for mutant in MUTANTS.values())
CLASSES = Counter(mutant.bug_class for mutant in MUTANTS.values())


@pytest.mark.parametrize("name", sorted(BUG_CLASSES))
def test_every_bug_class_has_four_mutants(name):
    assert CLASSES[name] >= 4


@pytest.mark.parametrize("name", sorted(r.id for r in TABLE.values() if r.level == "must" and not r.benched))
def test_every_must_has_two_mutants(name):
    assert KILLED[name] >= 2


@pytest.mark.parametrize("name", ["ERR-2", "ERR-3", "MEM-1", "CACHE-8"])
def test_so_have_shoulds_about_errors_memory_and_work(name):
    assert KILLED[name] >= 2


def test_a_buffer_of_all_scores_is_held_by_kernels_and_by_modules():
    assert {mutant.kind for mutant in MUTANTS.values() if mutant.requirement == "MEM-1"} == {
        "kernel",
        "module",
    }


def test_the_projections_of_xa_are_made_again_in_whole_and_in_part():
    assert {"xa-projected-and-thrown-away", "values-of-xa-projected-again"} <= MUTANTS.keys()


def test_there_are_many_controls_of_both_kinds():
    assert len(controls()) >= 24
    assert len(controls("kernel")) >= 8
    assert len(controls("module")) >= 8
