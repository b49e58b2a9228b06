"""PyTorch on MPS: scores computed in float32 were cast back to float16 before the softmax, and overflowed."""

from attn_reference import Claims


def attend(q, k, v, stored):
    """Scores in float32, stored in another dtype or not."""
    scores = q.float() @ k.float().mT / q.shape[-1] ** 0.5
    scores = scores.to(stored or scores.dtype)
    return (scores.softmax(-1).float() @ v.float()).to(q.dtype)


def before(q, k, v):
    """Stored in the dtype of q."""
    return attend(q, k, v, q.dtype)


def after(q, k, v):
    """Left in float32."""
    return attend(q, k, v, None)


before.claims = after.claims = Claims(("float16",), features=frozenset({"cross"}))
