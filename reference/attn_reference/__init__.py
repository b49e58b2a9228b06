"""The specification as code: problems, their solutions, and how far from these an implementation may lie."""

from .bound import bound, half_ulp, largest, limit, lse_bound, unit_roundoff
from .claims import DTYPES, FEATURES, Arithmetic, Claims
from .extended import solve_extended
from .forward import ForwardProblem, ForwardSolution, lower_forward, solve_forward
from .forward_bound import forward_bound
from .interface import AttentionModule
from .kernel import attention
from .lowering import lower
from .matrices import Solution, solve
from .module import MultiHeadAttention
from .problem import Problem
from .requirements import SPEC_VERSION

__all__ = [
    "DTYPES",
    "FEATURES",
    "SPEC_VERSION",
    "Arithmetic",
    "AttentionModule",
    "Claims",
    "ForwardProblem",
    "ForwardSolution",
    "MultiHeadAttention",
    "Problem",
    "Solution",
    "attention",
    "bound",
    "forward_bound",
    "half_ulp",
    "largest",
    "limit",
    "lower",
    "lower_forward",
    "lse_bound",
    "solve",
    "solve_extended",
    "solve_forward",
    "unit_roundoff",
]
