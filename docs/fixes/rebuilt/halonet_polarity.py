"""halonet-pytorch: a mask that says what may be seen was given to masked_fill, which fills where it is True."""

import torch

from attn_reference import Claims


def attend(q, k, v, hidden):
    """Scores filled where `hidden` is True."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.finfo(scores.dtype).max)
    return scores.softmax(-1) @ v


def before(q, k, v, mask=None):
    """The mask as it is."""
    return attend(q, k, v, mask)


def after(q, k, v, mask=None):
    """The mask inverted."""
    return attend(q, k, v, None if mask is None else ~mask)


before.claims = after.claims = Claims(("float64", "float32"), features=frozenset({"bool-mask", "cross"}))
