"""Every mutant is judged here, once: rejected by the requirement named for it, near-minimal, and its twin passed."""

import os

from attn_conformance.mutants import mutants
from attn_conformance.selftest import duels
from attn_conformance.selftest.duels import SIZES

SMALLEST = 2
"""Most batch elements, heads, queries and keys of a shrunk case, unless the mutant says that it needs more."""


def test_mutants_are_rejected_near_minimally_and_twins_pass():
    result = duels.run(jobs=os.cpu_count() or 1)
    assert result.counts["mutants"] == len(mutants())
    assert [kill.mutant for kill in result.kills if not kill.rejected] == []
    assert {kill.mutant: kill.twin for kill in result.kills if kill.twin} == {}
    large = {}
    for kill in result.kills:
        most = dict.fromkeys(SIZES.values(), SMALLEST) | dict(mutants()[kill.mutant].least)
        if over := {symbol: n for symbol, n in kill.size.items() if n > most[symbol]}:
            large[kill.mutant] = (over, kill.case)
    assert large == {}


def test_what_a_mutant_says_that_it_needs_is_more_than_the_least():
    for name, mutant in mutants().items():
        assert mutant.least.keys() <= set(SIZES.values()), name
        assert all(n > SMALLEST for n in mutant.least.values()), name
