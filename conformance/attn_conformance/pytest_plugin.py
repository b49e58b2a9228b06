"""The pytest plugin: options, and one test per requirement for tests marked `attn_conformance`.

Every pytest run of an environment loads it, so it imports pytest alone; the suite comes with the first marked test.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from attn_conformance.asking import Asked, Terms

EXAMPLE = '@conformance("mypkg.attention:MultiHeadAttention")'
F = TypeVar("F", bound=Callable[..., object])

SUITE = "attn_conformance.suite"
NO_TARGET = (
    f"{SUITE} needs a target: --attn-impl mypkg.attention:MultiHeadAttention, or a path/to/file.py:object"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `attn-conformance run`, under names of their own."""
    group = parser.getgroup("attn-conformance", "conformance of attention implementations")
    group.addoption("--attn-impl", action="append", default=[], metavar="TARGET",
                    help=f"what --pyargs {SUITE} judges; may be repeated")  # fmt: skip
    group.addoption("--attn-effort", choices=("smoke", "default", "thorough"), default="default")
    group.addoption(
        "--attn-seed", type=int, default=0, metavar="N", help="the same seed gives the same cases"
    )
    group.addoption("--attn-only", default="", metavar="ID|GROUP[,...]", help="these requirements only")
    group.addoption("--attn-strict", action="store_true",
                    help="documented differences and failed shoulds fail")  # fmt: skip
    group.addoption("--attn-expect", metavar="FILE", help="a TOML file of expected failures")
    group.addoption("--attn-device", choices=("cpu", "cuda"), default="cpu")
    group.addoption("--attn-dtype", default="", metavar="NAME[,...]", help="these dtypes only")
    group.addoption("--attn-with", default="", metavar="CLAIM[,...]", help="claims to add")
    group.addoption("--attn-without", default="", metavar="CLAIM[,...]", help="claims to leave out")
    group.addoption("--attn-convention", metavar="NAME", help="how arguments are spelled")
    group.addoption("--attn-no-isolate", action="store_true", help="judge in this process, for debuggers")


def pytest_configure(config: pytest.Config) -> None:
    """The marker is known; the suite without a target is a usage error."""
    config.addinivalue_line(
        "markers", "attn_conformance: one test per requirement (attn_conformance.conformance)"
    )
    if not config.option.attn_impl and any(name.startswith(SUITE) for name in config.args):
        raise pytest.UsageError(NO_TARGET)


def conformance(
    target: str | Callable[..., object],
    *,
    effort: str | None = None,
    seed: int | None = None,
    only: Iterable[str] | None = None,
    strict: bool | None = None,
    expected_failures: Mapping[str, str] | str | Path | None = None,
    device: str | None = None,
    dtype: Iterable[str] | None = None,
    with_: Iterable[str] | None = None,
    without: Iterable[str] | None = None,
    convention: str | None = None,
) -> Callable[[F], F]:
    """Make `test(requirement)` one test per requirement of the target; what is left out comes from the command line.

    target: its name, or a class or function that can be imported. expected_failures: {id: reason}, or the path of a
    TOML file, relative to the test's file.
    """
    given = {
        "effort": effort,
        "seed": seed,
        "only": only,
        "strict": strict,
        "expect": expected_failures,
        "device": device,
        "dtype": dtype,
        "with": with_,
        "without": without,
        "convention": convention,
    }
    mark = pytest.mark.attn_conformance(target, {name: v for name, v in given.items() if v is not None})
    if _is_test(target):
        return mark(target)  # without brackets, which collecting it will say

    def decorate(test: F) -> F:
        marked: F = mark(test)
        return marked

    return decorate


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a marked test its requirements: of the mark's target, or of each --attn-impl."""
    mark = metafunc.definition.get_closest_marker("attn_conformance")
    if mark is None:
        return
    from attn_conformance.asking import asked
    from attn_conformance.loading import TargetError

    config = metafunc.config
    targets, given = (mark.args[:1], mark.args[1]) if mark.args else (config.option.attn_impl, {})
    if not targets:
        raise pytest.Collector.CollectError(NO_TARGET)
    try:
        targets = [_name(target) for target in targets]
        terms = _terms(config, given, metafunc.definition.path.parent)
        found = [question for target in targets for question in asked(target, terms)]
    except TargetError as error:
        raise pytest.Collector.CollectError(f"attn-conformance cannot judge {error}") from error
    except ValueError as error:
        raise pytest.Collector.CollectError(f"attn-conformance cannot judge it: {error}") from error
    ids = [question.id if mark.args else f"{question.target}-{question.id}" for question in found]
    metafunc.parametrize("requirement", found, ids=ids, indirect=True)


@pytest.fixture
def requirement(request: pytest.FixtureRequest) -> Asked:
    """The requirement of a test under `conformance`: id, level, text, and verify()."""
    question: Asked = request.param
    return replace(question, properties=request.node.user_properties)


def _is_test(target: object) -> bool:
    """Whether it is the test that should have been decorated."""
    return inspect.isfunction(target) and "requirement" in inspect.signature(target).parameters


def _name(target: object) -> str:
    """The name of a target: as it is given, or that of a class or function; ValueError for what has none."""
    if isinstance(target, str):
        return target
    if _is_test(target):
        raise ValueError(f"write what is to be judged: {EXAMPLE}")
    module, path = (getattr(target, name, None) for name in ("__module__", "__qualname__"))
    found: Any = sys.modules.get(str(module))
    for part in str(path).split("."):
        found = getattr(found, part, None)
    if found is None or found is not target:
        raise ValueError(
            f"an object of type {type(target).__name__} that no module has under a name of its own; name it: {EXAMPLE}"
        )
    return f"{module}:{path}"


def _terms(config: pytest.Config, given: Mapping[str, Any], folder: Path) -> Terms:
    from attn_conformance.asking import Terms
    from attn_conformance.cli import names
    from attn_conformance.expectations import expectations
    from attn_conformance.targets import Narrowing

    def choice(name: str) -> Any:
        return given.get(name, config.getoption(f"attn_{name}"))

    def listed(name: str) -> tuple[str, ...]:
        value = choice(name)
        return names(value) if isinstance(value, str) else tuple(value)

    expect = choice("expect")
    if not isinstance(expect, Mapping | str | Path | None):
        raise ValueError(
            f"expected_failures is a {type(expect).__name__}; it is {{id: reason}}, or the path of a TOML file"
        )
    if expect is not None and not isinstance(expect, Mapping):
        expect = (folder if "expect" in given else config.invocation_params.dir) / expect
    return Terms(
        effort=choice("effort"),
        seed=choice("seed"),
        only=listed("only"),
        strict=choice("strict"),
        expected={} if expect is None else expectations(expect),
        isolate=not config.option.attn_no_isolate,
        narrowing=Narrowing(
            convention=choice("convention"),
            add=listed("with"),
            drop=listed("without"),
            dtypes=listed("dtype"),
            device=choice("device"),
        ),
    )
