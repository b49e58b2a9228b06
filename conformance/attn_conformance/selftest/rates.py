"""Tables of alarms, of rates of detection and of an attack, and the page of them.

`python -m attn_conformance.selftest.rates docs/selftest/alarms.md docs/selftest/alarms.json docs/selftest/attack.json`
writes the page.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from attn_conformance.files import put
from attn_conformance.selftest.alarms import LEVEL, Alarms, Count
from attn_conformance.selftest.attack import Attack, Peak
from attn_conformance.selftest.posed import Of
from attn_reference.claims import DTYPES


class Kept(Protocol):
    """What a kernel has one of for each dtype: a count, or a peak."""

    @property
    def kernel(self) -> str:
        """Its name."""
        ...

    @property
    def of(self) -> Of:
        """What was compared."""
        ...

    @property
    def dtype(self) -> str:
        """The dtype."""
        ...


K = TypeVar("K", bound=Kept)


@dataclass(frozen=True)
class Grid:
    """A table: its title, the names of its columns, and rows of as many cells, each a text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table, numbers to the right."""
        lines = [self.columns, ("---", *["--:"] * (len(self.columns) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


WHAT: dict[Of, str] = {"out": "output", "gradients": "gradients"}
"""How what is compared is called where people read."""


def grids(result: Alarms | Attack) -> list[Grid]:
    """The tables of a result: for outputs and for gradients, as far as there are any."""
    if isinstance(result, Attack):
        return [_peaks(of, [p for p in result.peaks if p.of == of]) for of in _kinds(result.peaks)]
    found = []
    for of in _kinds(result.counts):
        mine = [count for count in result.counts if count.of == of]
        found.append(_right(of, [count for count in mine if count.right]))
        found.append(_wrong(of, [count for count in mine if not count.right]))
    return [grid for grid in found if grid.rows]


def _kinds(records: Iterable[Kept]) -> list[Of]:
    present = {record.of for record in records}
    return [of for of in WHAT if of in present]


def _right(of: Of, counts: list[Count]) -> Grid:
    return Grid(
        f"Right kernels, {WHAT[of]}: alarms, and the largest error over limit by dtype",
        ("kernel", "comparisons", "alarms", *DTYPES),
        tuple(
            (
                name,
                f"{sum(c.comparisons for c in mine)}",
                f"{sum(c.failed for c in mine)}",
                *_by_dtype(mine, lambda count: ratio(count.largest)),
            )
            for name, mine in _by_kernel(counts)
        ),
    )


def _wrong(of: Of, counts: list[Count]) -> Grid:
    return Grid(
        f"Defective kernels, {WHAT[of]}: cases that show the defect, and in how many per cent it is detected",
        ("kernel", "cases", "all", *DTYPES),
        tuple(
            (
                name,
                f"{sum(c.cases for c in mine)}",
                _share(mine),
                *_by_dtype(mine, lambda count: _share([count])),
            )
            for name, mine in _by_kernel(counts)
        ),
    )


def _peaks(of: Of, peaks: list[Peak]) -> Grid:
    return Grid(
        f"Right kernels under attack, {WHAT[of]}: the largest error over limit by dtype",
        ("kernel", "examples", *DTYPES),
        tuple(
            (name, f"{sum(p.examples for p in mine)}", *_by_dtype(mine, lambda peak: ratio(peak.largest)))
            for name, mine in _by_kernel(peaks)
        ),
    )


def _by_kernel(records: list[K]) -> list[tuple[str, list[K]]]:
    return [
        (name, [r for r in records if r.kernel == name]) for name in dict.fromkeys(r.kernel for r in records)
    ]


def _by_dtype(records: list[K], cell: Callable[[K], str]) -> tuple[str, ...]:
    found = {record.dtype: cell(record) for record in records}
    return tuple(found.get(dtype, "") for dtype in DTYPES)


def ratio(value: float) -> str:
    """A ratio to two digits."""
    return f"{value:.2f}"


def _share(counts: list[Count]) -> str:
    """Detected in whole per cent, 0 and 100 only where they are exact; empty where nothing counts."""
    cases, detected = sum(c.cases for c in counts), sum(c.detected for c in counts)
    if not cases:
        return ""
    share = round(100 * detected / cases)
    return f"{share if detected in (0, cases) else min(max(share, 1), 99)}"


def page(result: Alarms, attack: Attack) -> str:
    """The page in Markdown."""
    totals = result.totals
    accused = sum(not peak.ok for peak in attack.peaks)
    most = max(peak.largest for peak in attack.peaks)
    examples: Counter[tuple[str, str]] = Counter()
    for peak in attack.peaks:
        examples[peak.kernel, peak.of] += peak.examples
    parts = [
        "# Alarms and detections",
        f"""\
How often does the bound accuse a right kernel, and how often does a single case show a defect? Every case of one
population is posed to right kernels that compute in different ways, and to kernels with one numeric defect each:
{result.cases} distinct cases, of twelve kinds of values, nine of masks and causality, 1 to 304 keys and now and then
1024 to 2047, head sizes 1 to 128, four dtypes. Each result is judged as `attn-conformance run` judges it. Kernels share
the cases, so their comparisons are not independent of each other.""",
        f"""\
**{totals["alarms"]} alarms in {totals["comparisons"]} comparisons** with right kernels; {totals["detected"]} of
{totals["defective"]} defective results are detected, each in one case alone. Where a defective result is bit for bit
that of the same code without the defect, the case is left out. A requirement draws 150 cases, so that it finds what a
few in a hundred of them show; what lies below the resolution of a dtype nothing finds. Rates are of this population:
other sizes, values and masks show a defect more or less often under the same bound. Backward passes that differ in what
they round are all right, so that the bound of gradients has room for all of them, and shows less than one made for a
single pass would. Names are those of `attn-conformance run defect:NAME`, `mutant:NAME` and `control:NAME`.""",
        *(f"## {grid.title}\n\n{grid.markdown()}" for grid in grids(result)),
        f"""\
## Under attack

How near to their limits can right kernels be brought? Hill-climbing over sizes, values and masks,
at least {min(examples.values())} examples for each kernel, small ones, brings none
further than {ratio(most)} of it ({accused} alarms). A result that is exact but for its last rounding reaches
1/1.1 = 0.91 by rounding alone.""",
        *(f"### {grid.title}\n\n{grid.markdown()}" for grid in grids(attack)),
        f"""\
## Again

```sh
attn-conformance selftest alarms --cases {result.cases} --seed {result.seed} --against docs/selftest/alarms.json
attn-conformance selftest alarms --attack --examples {attack.examples} --seed {attack.seed}
```

The first fails if there is an alarm, or if a rate of detection is lower than in
[alarms.json](alarms.json) by more than chance explains: Fisher's exact test, one-sided, at {LEVEL:g} over the number of
rates. Measured with attn-conformance {result.suite}, {_where(result)}.""",
    ]
    return "\n\n".join(parts) + "\n"


def _where(result: Alarms) -> str:
    facts = result.environment
    return (
        f"Python {facts['python']}, NumPy {facts['numpy']}, on {facts['platform']}, {str(facts['date'])[:10]}"
    )


def main(document: str, results: str, attack: str) -> None:
    """Write the page of a file of alarms and one of an attack."""
    read = (json.loads(Path(path).read_text(encoding="utf-8")) for path in (results, attack))
    put(Path(document), page(Alarms.from_json(next(read)), Attack.from_json(next(read))))


if __name__ == "__main__":
    main(*sys.argv[1:])
