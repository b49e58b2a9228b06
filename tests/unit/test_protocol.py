"""The plug-in contract stays as it was published: members, their parameters, and names of claims."""

import inspect
import subprocess
import sys
from typing import get_type_hints

from attn_conformance.implementation import PARAMETERS, Implementation, Session
from attn_reference import FEATURES, Claims

ADAPTER = """
from collections.abc import Mapping
from typing import Any
from attn_conformance.implementation import Implementation, Session
from attn_reference import Claims

class Steps:
    cache: Any = None
    def step(self, x: Any, xa: Any = None, mask: Any = None) -> Any: return x

class Mine:
    claims = Claims()
    border = "numpy"
    def build(self, n_state: int, n_head: int, causal: bool, params: Mapping[str, Any]) -> Any: return None
    def forward(self, handle: Any, x: Any, xa: Any = None, mask: Any = None) -> Any: return x
    def open(self, handle: Any, cache: Any = None) -> Steps: return Steps()

class Lacking:
    claims = Claims()
    border = "numpy"

right: Implementation = Mine()
session: Session = Mine().open(None)
reveal_type(right.claims)
reveal_type(right.border)
wrong: Implementation = Lacking()
"""


def test_members_and_parameters_of_the_protocol() -> None:
    def parameters(function: object) -> list[str]:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]

    public = {name for name in vars(Implementation) if not name.startswith("_")}
    assert public == {"claims", "border", "build", "forward"}
    assert parameters(Implementation.build) == ["self", "n_state", "n_head", "causal", "params"]
    assert parameters(Implementation.forward) == ["self", "handle", "x", "xa", "mask"]
    assert {name for name in vars(Session) if not name.startswith("_")} == {"cache", "step"}
    assert parameters(Session.step) == ["self", "x", "xa", "mask"]
    assert len(PARAMETERS) == 7


def test_what_a_claim_can_say() -> None:
    assert list(get_type_hints(Claims)) == ["dtypes", "devices", "features", "arithmetic", "head_sizes"]
    assert set(FEATURES) >= {
        *("bool-mask", "float-mask", "float32-mask", "causal", "cross", "gradients", "zero-sizes"),
        *("linear-memory", "validates", "gqa", "scale", "dv", "lse", "batch-invariance", "run-determinism"),
        *("qkv", "cache", "shared-cache", "cache-edits", "casts-weights", "drop-in", "constructor"),
        "torch-module",
    }


def test_a_type_checker_accepts_an_adapter_and_names_what_another_lacks() -> None:
    command = [sys.executable, "-m", "mypy", "--config-file=", "--no-incremental", "-c", ADAPTER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("<string>")]
    assert 'Revealed type is "attn_reference.claims.Claims"' in lines[0]
    assert 'Revealed type is "attn_conformance.borders.Border | str"' in lines[1].replace("Union[", "")
    errors = [line for line in lines if ": error:" in line]
    assert len(errors) == 1
    assert 'expression has type "Lacking", variable has type "Implementation"' in errors[0]
