"""torch.nn.MultiheadAttention: its fast path took a floating mask for a boolean one, True = may not attend."""

from torch.nn.functional import scaled_dot_product_attention

from attn_reference import Claims


def before(q, k, v, mask=None):
    """Whatever is not zero hides."""
    return scaled_dot_product_attention(q, k, v, None if mask is None else ~mask.bool())


def after(q, k, v, mask=None):
    """The mask is added."""
    return scaled_dot_product_attention(q, k, v, mask)


before.claims = after.claims = Claims(features=frozenset({"float-mask", "cross"}))
