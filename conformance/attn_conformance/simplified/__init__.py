"""Simplified: what a case rests on, and by which requirements that is judged; functions from a case to its grounds."""

from attn_conformance.simplified.calls import alone, no_keys, offered, result, shapes, with_nan
from attn_conformance.simplified.causality import square, uncaused
from attn_conformance.simplified.elements import one_element, ordered
from attn_conformance.simplified.masks import (
    allowed,
    hiding,
    low,
    mask_in_one_call,
    neutral,
    one_plane,
    squarely_masked,
    visible_numbers,
    written_out,
)
from attn_conformance.simplified.modules import across, composed, cross_attention, forward, self_attention
from attn_conformance.simplified.numbers import hard, heads, huge, plain, single, tiles
from attn_conformance.simplified.scripts import chunked, first_step, steps_only, whole
from attn_conformance.simplified.smaller import repeated

__all__ = [
    "across",
    "allowed",
    "alone",
    "chunked",
    "composed",
    "cross_attention",
    "first_step",
    "forward",
    "hard",
    "heads",
    "hiding",
    "huge",
    "low",
    "mask_in_one_call",
    "neutral",
    "no_keys",
    "offered",
    "one_element",
    "one_plane",
    "ordered",
    "plain",
    "repeated",
    "result",
    "self_attention",
    "shapes",
    "single",
    "square",
    "squarely_masked",
    "steps_only",
    "tiles",
    "uncaused",
    "visible_numbers",
    "whole",
    "with_nan",
    "written_out",
]
