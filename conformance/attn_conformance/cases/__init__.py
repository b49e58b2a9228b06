"""Cases: frozen recipes of examples, and the arrays that they become."""

from attn_conformance.cases.call import Call, build
from attn_conformance.cases.case import KernelCase, Mask

__all__ = ["Call", "KernelCase", "Mask", "build"]
