"""CTOR-1: a size that the heads do not divide is accepted."""

# Seen in openai-whisper 20250625.
import sys

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention
else:
    from whisper.model import MultiHeadAttention

try:
    MultiHeadAttention(8, 3)
except ValueError:
    sys.exit(0)
sys.exit("CTOR-1: a module of size 8 with 3 heads was constructed")
