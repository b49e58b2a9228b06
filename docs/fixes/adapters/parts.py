"""Parts of large packages: a module is imported without what the packages around it import."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def part(name):
    """The module package.sub.module; the packages in its name are bare: their __init__ is not run."""
    top, *subs, _ = name.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {top!r}", name=top)
    folder = Path(spec.origin).parent
    for sub in (None, *subs):
        top, folder = (top, folder) if sub is None else (f"{top}.{sub}", folder / sub)
        if top not in sys.modules:
            sys.modules[top] = ModuleType(top)
            sys.modules[top].__path__ = [str(folder)]
    return import_module(name)
