"""Scripted checks, whose outcomes are written down beforehand, and the rows that come of them."""

import itertools
from dataclasses import replace

from hypothesis import strategies as st

from attn_conformance.borders import NumpyBorder
from attn_conformance.cases import KernelCase
from attn_conformance.conventions import KERNEL
from attn_conformance.grounds import Ground
from attn_conformance.kernel_subject import KernelSubject
from attn_conformance.registry import Check
from attn_conformance.rows import Order, judge
from attn_reference import Claims, attention
from attn_reference.claims import PLAIN_FEATURES

CASES = st.builds(KernelCase, seed=st.integers(0, 10**6), dtype=st.sampled_from(["float64", "float32"]))
LOOSER = "off\nwithin the bound of eager arithmetic, which --with eager claims (now: fused)"


def made(features=PLAIN_FEATURES, **changes):
    subject = KernelSubject("a target", attention, KERNEL, NumpyBorder(), Claims(features=features))
    return replace(subject, **changes)


def raises(*_, **__):
    raise TypeError


BROKEN = KernelSubject("a target", raises, KERNEL, NumpyBorder(), Claims(features=PLAIN_FEATURES))
"""On which every ground of an example fails, so that a failure rests on it."""


def on(*judges):
    """The ground of a case, judged by these requirements."""
    return (Ground(KernelCase(), judges),)


def scripted(outcome, name="scripted", cases=CASES, **options):
    """A check whose n-th example, from 0 on, has the outcome(n, case): bool or str, or an exception to be raised."""
    number = itertools.count()

    def function(subject, case):
        found = outcome(next(number), case)
        if isinstance(found, Exception):
            raise found
        return found

    function.__name__ = name
    return Check("EQ-3", function, lambda scope: cases, **options)


def judged_row(monkeypatch, *checks, requirement="EQ-3", subject=None, refused=None, **order):
    """What comes of an order of EQ-3, or of another requirement, with these checks in its checks' place."""
    monkeypatch.setattr("attn_conformance.rows.checks", lambda: {requirement: checks})
    given = Order(requirement, **{"effort": "smoke", **order})
    return judge(given, made() if subject is None else subject, refused or {})
