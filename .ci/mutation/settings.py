"""What is mutated, and what judges it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXPLAINED = ROOT / "docs/selftest/mutation.toml"
PACKAGES = ("reference", "impl", "conformance")

REFERENCE, CONFORMANCE = "reference/attn_reference", "conformance/attn_conformance"
JUDGED = {
    f"{REFERENCE}/bound.py": (
        "contenders",
        "bound_formulas",
        "bound",
        "forward_formulas",
        "gradient_formulas",
        "forward_bound",
    ),
    f"{REFERENCE}/forward_bound.py": (
        "forward_formulas",
        "module_gradient_formulas",
        "forward_bound",
        "forward_backward_bound",
    ),
    f"{REFERENCE}/pair_errors.py": (
        "pair_errors",
        "gradient_formulas",
        "module_gradient_formulas",
        "backward_bound",
        "forward_backward_bound",
    ),
    f"{REFERENCE}/backward_bound.py": (
        "gradient_formulas",
        "module_gradient_formulas",
        "backward_bound",
        "forward_backward_bound",
    ),
    f"{REFERENCE}/forward_backward_bound.py": ("module_gradient_formulas", "forward_backward_bound"),
    f"{REFERENCE}/inexact_pairs.py": ("module_gradient_formulas", "forward_backward_bound"),
    f"{REFERENCE}/extended.py": ("extended", "backward", "forward_backward"),
    f"{CONFORMANCE}/judge.py": ("judge", "runner", "gradient_failures"),
    f"{CONFORMANCE}/judging.py": ("judging", "assumed", "runner", "isolation"),
    f"{CONFORMANCE}/rows.py": ("rows", "replayed_rows", "database", "assumed", "runner"),
    f"{CONFORMANCE}/exploration.py": ("exploration", "runner", "alarms", "isolation"),
    f"{CONFORMANCE}/bias.py": ("bias_formulas", "bias"),
    f"{CONFORMANCE}/gradients.py": ("gradient_limits", "gradients", "gradient_failures"),
    f"{CONFORMANCE}/expectations.py": ("expectations",),
    f"{CONFORMANCE}/results.py": ("results", "terminal", "expectations", "cli"),
}
"""What judges, and which files of tests/unit are about it, the likeliest and quickest to tell first."""

SUBJECTS = {
    "examples/numpy_kernel.py": ({"attention": "dv"}, ()),
    "examples/torch_module.py": ({"Attention": ""}, ()),
    f"{CONFORMANCE}/mutants/plain.py": (
        {"attention": "gqa,scale,dv", "attention_in_blocks": "gqa,dv,linear-memory"},
        ("LOWER", "seen_logits", "is_float", "visible"),
    ),
}
"""Right implementations: the objects and what each claims beyond what it is asked anyway; and what they do not use."""
