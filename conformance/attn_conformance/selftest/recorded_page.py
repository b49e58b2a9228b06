"""The page of judged recordings."""

from __future__ import annotations

from attn_conformance.selftest.recorded import Rates, Summaries, Summary


def tables(found: Summaries) -> str:
    return ""


def page(found: Summaries) -> str:
    return ""
