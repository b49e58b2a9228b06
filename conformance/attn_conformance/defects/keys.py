"""Defects about single keys, at either end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attn_conformance.controls import Inputs
from attn_conformance.controls.inputs import Array
from attn_conformance.defects import defect
from attn_conformance.defects.right import right


def without_key(x: Inputs, key: int) -> Array:
    """Attention that never sees one key; a lone key stays."""
    visible = x.visible.copy()
    if visible.shape[-1] > 1:
        visible[..., key] = False
    return right(replace(x, visible=visible))


@defect("first-key-dropped", twin=right)
def first_key_dropped(x: Inputs) -> Array:
    """The first of several keys is not seen."""
    return without_key(x, 0)


@defect("last-key-dropped", twin=right)
def last_key_dropped(x: Inputs) -> Array:
    """The last of several keys is not seen."""
    return without_key(x, -1)


@defect("last-key-stale", twin=right)
def last_key_stale(x: Inputs) -> Array:
    """The last key and its value are those of the key before."""
    last = np.arange(x.k.shape[2])
    if last.size > 1:
        last[-1] -= 1
    return right(replace(x, k=x.k[:, :, last], v=x.v[:, :, last]))
