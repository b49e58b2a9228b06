"""The specification as code: problems, their solutions, and how far from these an implementation may lie.

What is right takes ten minutes: problem, lowering, matrices, backward; then the same of a module, forward and
forward_backward. In the symbols of SPECIFICATION.md, each file a page or two. How far a result may lie from that is
bound for outputs and backward_bound for gradients, which adds up pair_errors and inexact_pairs; forward_bound and
forward_backward_bound carry them through a module's projections. loops says all of it once more, one number at a time.
"""

from .backward import Backward, solve_backward
from .backward_bound import backward_bound
from .bound import bound, half_ulp, largest, limit, lse_bound, unit_roundoff
from .claims import DTYPES, FEATURES, Arithmetic, Claims
from .extended import solve_extended
from .forward import ForwardProblem, ForwardSolution, lower_forward, solve_forward
from .forward_backward import ForwardBackward, solve_forward_backward
from .forward_backward_bound import forward_backward_bound
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
    "Backward",
    "Claims",
    "ForwardBackward",
    "ForwardProblem",
    "ForwardSolution",
    "MultiHeadAttention",
    "Problem",
    "Solution",
    "attention",
    "backward_bound",
    "bound",
    "forward_backward_bound",
    "forward_bound",
    "half_ulp",
    "largest",
    "limit",
    "lower",
    "lower_forward",
    "lse_bound",
    "solve",
    "solve_backward",
    "solve_extended",
    "solve_forward",
    "solve_forward_backward",
    "unit_roundoff",
]
