"""The specification as code: problems, their solutions, and how far from these an implementation may lie."""

from .bound import bound, half_ulp, largest, limit, lse_bound, unit_roundoff
from .claims import DTYPES, FEATURES, Arithmetic, Claims
from .extended import solve_extended
from .kernel import attention
from .lowering import lower
from .matrices import Solution, solve
from .problem import Problem
from .requirements import SPEC_VERSION

__all__ = [
    "DTYPES",
    "FEATURES",
    "SPEC_VERSION",
    "Arithmetic",
    "Claims",
    "Problem",
    "Solution",
    "attention",
    "bound",
    "half_ulp",
    "largest",
    "limit",
    "lower",
    "lse_bound",
    "solve",
    "solve_extended",
    "unit_roundoff",
]
