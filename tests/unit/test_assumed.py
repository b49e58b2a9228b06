"""Assumed claims: a failure that rests on one says so, and how to leave it out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import attn_conformance
from attn_conformance.targets import Narrowing

SOURCE = """
import numpy as np
import attn_flash


class Strict(attn_flash.MultiHeadAttention):
    claims = None

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        if x.dtype != self.out.weight.dtype:
            raise RuntimeError("x and the weights must have the same dtype")
        return super().forward(x, xa, mask, kv_cache)


class Stated(Strict):
    claims = attn_flash.MultiHeadAttention.claims


def narrow(q, k, v, mask=None, is_causal=False):
    from attn_reference import attention
    if q.dtype == np.float16:
        raise TypeError("no half")
    return attention(q, k, v, mask, is_causal)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "assuming.py").write_text(SOURCE, encoding="utf-8")
    return f"{tmp_path}/assuming.py"


def row(target: str, requirement: str, narrowing: Narrowing = Narrowing()) -> attn_conformance.results.Row:
    report = attn_conformance.run(
        target, effort="smoke", only=(requirement,), narrowing=narrowing, isolate=False, explain=False
    )
    return report.rows[requirement]


POINTER = "\nrests on the claim casts-weights, which was assumed; --without casts-weights leaves it out"


def test_what_rests_on_casting_weights_says_so_unless_it_was_claimed(here: str) -> None:
    for requirement in ("OUT-3", "PURE-6"):
        found = row(f"{here}:Strict", requirement)
        assert found.status == "failed"
        assert (found.message or "").endswith(POINTER)
        for target, add in (("Stated", ()), ("Strict", ("casts-weights",))):
            found = row(f"{here}:{target}", requirement, Narrowing(add=add))
            assert found.status == "failed"
            assert "rests on" not in (found.message or "")


def test_without_the_claim_nothing_is_asked_that_rests_on_it(here: str) -> None:
    narrowing = Narrowing(drop=("casts-weights",))
    assert row(f"{here}:Strict", "PURE-6", narrowing).status == "passed"
    assert row(f"{here}:Strict", "OUT-3", narrowing).status == "passed"


def test_a_refused_dtype_that_was_assumed_can_be_left_out(here: str) -> None:
    found = row(f"{here}:narrow", "NUM-1")
    assert found.message == (
        "float16 is claimed, yet raised TypeError: no half\n"
        "rests on the claim float16, which was assumed; --dtype float64,float32,bfloat16 leaves it out"
    )
    found = row(f"{here}:narrow", "NUM-1", Narrowing(dtypes=("float32", "float16")))
    assert found.message == "float16 is claimed, yet raised TypeError: no half"
