"""Settings: how a script sees that a call drew random numbers, or changed the state of the process."""

from __future__ import annotations

GENERATORS = {
    "random": (["random.seed(1)"], "random.getstate()"),
    "numpy": (["np.random.seed(1)"], "pickle.dumps(np.random.get_state())"),
    "torch": ([], '"torch" in sys.modules and sys.modules["torch"].get_rng_state().tolist()'),
}
"""Of each global random generator, by the framework's name, what is done to it first, and an expression for its state.
"""

FRAMEWORK = 'framework = sys.modules.get("torch")'
"""PyTorch where it is in use: the reference does without."""

SETTINGS = {
    "the working directory": ([], "os.getcwd()"),
    "NumPy's error handling": ([], "np.geterr()"),
    "PyTorch's default dtype": ([FRAMEWORK], "framework and framework.get_default_dtype()"),
    "PyTorch's gradient mode": ([FRAMEWORK], "framework and framework.is_grad_enabled()"),
    "PyTorch's deterministic mode": (
        [FRAMEWORK],
        "framework and framework.are_deterministic_algorithms_enabled()",
    ),
    "PyTorch's precision of float32 products": (
        [FRAMEWORK],
        "framework and framework.get_float32_matmul_precision()",
    ),
    "PyTorch's number of threads": (
        [FRAMEWORK, "if framework:", "    framework.set_num_threads(framework.get_num_threads() + 1)"],
        "framework and framework.get_num_threads()",
    ),
}
"""The same of the settings of `process_state`, by their names; of the threads there are as many as nobody would set."""
