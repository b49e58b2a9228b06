"""CTOR-2: a negative number of heads is accepted."""

# Seen in torchtune 0.6.1.
import sys

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    construct = MultiHeadAttention
else:
    from torch.nn import Identity
    from torchtune.modules import MultiHeadAttention as Attention

    def construct(n_state, n_head):
        """A module; its projections play no part."""
        sizes = {"num_heads": n_head, "num_kv_heads": n_head, "head_dim": n_state // n_head}
        layers = {name: Identity() for name in ("q_proj", "k_proj", "v_proj", "output_proj")}
        return Attention(embed_dim=n_state, **sizes, **layers)


try:
    construct(8, -2)
except ValueError:
    sys.exit(0)
sys.exit("CTOR-2: a module with -2 heads was constructed")
