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

BENCHES = f"{SUITE}.test_bench"
BENCH_FILE = Path(__file__).parent / "suite" / "test_bench.py"
NO_BENCH = "nothing is timed without --attn-bench, and --attn-vs and --attn-baseline say nothing"
AT_ONCE = (
    "--attn-bench: several workers would time benchmarks at once, each disturbing the others; time them in a run of "
    "their own (-n 0, or -p no:xdist), or, among other tests, on one worker: --dist loadgroup"
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
    group.addoption("--attn-bench", action="store_true", help=f"the benchmarks of --pyargs {SUITE}, too")
    group.addoption("--attn-vs", metavar="TARGET", help="what must not be faster (--attn-bench)")
    group.addoption("--attn-baseline", metavar="FILE",
                    help="a file of `attn-conformance bench --json` that must not be faster")  # fmt: skip
    group.addoption("--attn-inconclusive", choices=("fail", "skip"), default="fail",
                    help="what becomes of benchmarks of which nothing can be told (default fail)")  # fmt: skip
    group.addoption("--attn-no-isolate", action="store_true", help="judge in this process, for debuggers")


def pytest_configure(config: pytest.Config) -> None:
    """The marker is known; the suite without a target is a usage error."""
    config.addinivalue_line(
        "markers", "attn_conformance: one test per requirement (attn_conformance.conformance)"
    )
    config.addinivalue_line("markers", "attn_benchmark: one test per workload (attn_conformance.suite)")
    if not config.option.attn_impl and any(name.startswith(SUITE) for name in config.args):
        raise pytest.UsageError(NO_TARGET)
    if config.option.attn_bench:
        _alone(config)
        from attn_conformance.bench.store import plugin

        config.pluginmanager.register(plugin(config), "attn-conformance-benchmarks")
    elif config.option.attn_vs or config.option.attn_baseline or BENCHES in config.args:
        raise pytest.UsageError(NO_BENCH)


def _alone(config: pytest.Config) -> None:
    """A usage error if pytest-xdist would time benchmarks at once."""
    if config.getoption("dist", "no") in ("no", "loadgroup") or config.getoption("numprocesses", None) == 1:
        return
    raise pytest.UsageError(AT_ONCE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The suite's benchmarks are for those who ask for them."""
    return True if collection_path == BENCH_FILE and not config.option.attn_bench else None


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
    """Give a marked test its requirements: of the mark's target, or of each --attn-impl; or its workloads."""
    if metafunc.definition.get_closest_marker("attn_benchmark") is not None:
        _pose(metafunc)
        return
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


def _pose(metafunc: pytest.Metafunc) -> None:
    """Give a test the workloads of each --attn-impl."""
    from attn_conformance.bench.asking import GROUP, Terms, timed
    from attn_conformance.bench.store import marks
    from attn_conformance.loading import TargetError

    config, found = metafunc.config, []
    targets, baseline = config.option.attn_impl, config.option.attn_baseline
    alike = [pytest.mark.xdist_group(GROUP)] if config.pluginmanager.hasplugin("xdist") else []
    try:
        narrowing = _terms(config, {}, metafunc.definition.path.parent).narrowing
        terms = Terms(
            config.option.attn_vs,
            None if baseline is None else config.invocation_params.dir / baseline,
            narrowing,
            config.option.attn_seed,
            config.option.attn_inconclusive == "skip",
        )
        for target in targets:
            before = f"{target}-" if len(targets) > 1 else ""
            asked, left_out = timed(target, terms)
            for one in asked:
                own = [*alike, *marks(config, one.workload.work)]
                found.append(pytest.param(one, id=before + one.workload.name, marks=own))
            for out in left_out:
                skip = pytest.mark.skip(reason=out.reason)
                found.append(pytest.param(out, id=before + out.workload.name, marks=[*alike, skip]))
    except TargetError as error:
        raise pytest.Collector.CollectError(f"attn-conformance cannot time {error}") from error
    except ValueError as error:
        raise pytest.Collector.CollectError(f"attn-conformance cannot time it: {error}") from error
    metafunc.parametrize("workload", found)


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
