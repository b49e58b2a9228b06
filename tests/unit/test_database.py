"""Stored counterexamples: found again under their key, never a danger to a run, never more than data."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from attn_conformance.cases import ForwardCase, KernelCase, Mask, ScriptCase, SizesCase, Step
from attn_conformance.database import KEPT, Database, Entry, default_folder, relative
from attn_conformance.independent import BACKEND
from attn_conformance.registry import checks
from attn_conformance.results import Report, Row, to_json
from attn_conformance.sound import sound_case
from attn_conformance.stored import Stored, counterexamples
from attn_conformance.targets import subject

KEY = ("MASK-1", "pkg.mod:Class", "cpu")
CLAIMS = {"dtypes": ["float32"]}
CASES = (
    KernelCase(2, 2, 2, 3, 4, 8, 8, mask=Mask(axes="b1ts"), before=(KernelCase(scale=0.5),)),
    ForwardCase(keys=3, mask=Mask(), change="torch.compile"),
    ScriptCase(steps=(Step(length=2), Step("reorder", order=(1, 0)))),
    SizesCase(n_head=-2),
)


def stored(case):
    return Stored("a_check", case)


def entry(case, message="m"):
    return Entry(stored(case), CLAIMS, message)


def cases_of(database, *key):
    return tuple(entry.stored.case for entry in database.entries(*key))


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "kept")


def file_of(database, key=KEY):
    database.add(*key, entry(CASES[0]))
    (file,) = (database.folder / key[2]).glob(f"*/{key[0]}.json")
    return file


@pytest.mark.parametrize("case", CASES, ids=lambda case: type(case).__name__)
def test_a_stored_case_is_found_by_another_run_until_it_is_forgotten(database, case):
    database.add(*KEY, entry(case, "off by 3"))
    again = Database(database.folder)
    assert cases_of(again, *KEY) == (case,)
    again.forget(*KEY, stored(case))
    assert cases_of(database, *KEY) == ()
    assert database.warnings == again.warnings == []
    assert not list(database.folder.rglob("MASK-1*"))


def test_keys_do_not_meet(database):
    database.add(*KEY, entry(CASES[0]))
    for other in (
        ("MASK-2", *KEY[1:]),
        (KEY[0], "pkg.mod:class", "cpu"),
        (KEY[0], "pkg-mod:Class", "cpu"),
        (KEY[0], "pkg/mod:Class", "cpu"),
        (KEY[0], "x" * 500, "cpu"),
        (KEY[0], "../..", "cpu"),
        (KEY[0], "", "cpu"),
        (*KEY[:2], "cuda"),
    ):
        assert cases_of(database, *other) == ()
        database.add(*other, entry(CASES[1]))
        assert cases_of(database, *other) == (CASES[1],)
    assert cases_of(database, *KEY) == (CASES[0],)
    assert database.warnings == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a\n", "."])
def test_what_is_no_id_or_device_is_no_path(database, name):
    with pytest.raises(ValueError, match="cannot be part"):
        cases_of(database, name, *KEY[1:])
    with pytest.raises(ValueError, match="cannot be part"):
        database.add(*KEY[:2], name, entry(CASES[0]))


def test_the_newest_comes_first_and_few_are_kept(database):
    cases = [KernelCase(seed=seed) for seed in range(KEPT + 3)]
    for case in cases:
        database.add(*KEY, entry(case))
    assert cases_of(database, *KEY) == tuple(reversed(cases))[:KEPT]
    database.add(*KEY, entry(cases[-2]))
    assert cases_of(database, *KEY)[:2] == (cases[-2], cases[-1])
    assert len(cases_of(database, *KEY)) == KEPT


def test_a_file_is_the_same_target_however_its_path_is_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spellings = ("a/b.py:f", "./a/b.py:f", f"{tmp_path}/a/b.py:f", "a/../a/b.py:f")
    assert {relative(name) for name in spellings} == {"a/b.py:f"}
    assert relative("pkg.mod:f") == "pkg.mod:f"
    assert relative("a/b.py:f(1, 'x:y')") == "a/b.py:f(1, 'x:y')"
    database = Database()
    database.add("MASK-1", spellings[2], "cpu", entry(CASES[0]))
    assert cases_of(database, "MASK-1", spellings[0], "cpu") == (CASES[0],)
    assert str(tmp_path) not in next((tmp_path / ".attn-conformance").rglob("MASK-1.json")).read_text()


def test_files_are_for_people_too(database):
    file = file_of(database, ("MASK-1", "pkg.mod:Class", "cuda"))
    assert file.parent.name.startswith("pkg.mod-Class-")
    data = json.loads(file.read_text())
    assert data.items() >= {"requirement": "MASK-1", "target": "pkg.mod:Class", "device": "cuda"}.items()
    case = json.loads(json.dumps(CASES[0].to_json()))
    assert data["cases"] == [{"check": "a_check", "case": case, "claims": CLAIMS, "message": "m"}]
    assert {path.name for path in database.folder.iterdir()} == {".gitignore", "README.md", "cuda"}
    assert (database.folder / ".gitignore").read_text() == "*\n"


def test_a_deleted_gitignore_stays_deleted(database):
    file_of(database)
    (database.folder / ".gitignore").unlink()
    database.add("MASK-2", *KEY[1:], entry(CASES[0]))
    assert not (database.folder / ".gitignore").exists()


def test_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATTN_CONFORMANCE_DIR", raising=False)
    assert default_folder() == tmp_path / ".attn-conformance"
    assert cases_of(Database(), *KEY) == ()
    assert not (tmp_path / ".attn-conformance").exists()  # nothing to store, nothing made
    monkeypatch.setenv("ATTN_CONFORMANCE_DIR", "elsewhere")
    assert Database().folder == tmp_path / "elsewhere"


def damaged(**more):
    data = {"format": 1, "requirement": "MASK-1", "target": "pkg.mod:Class", "device": "cpu", "cases": []}
    return json.dumps(data | more).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"<<<<<<< HEAD",
        b"[" * 200_000,
        b" " * (1 << 20) + damaged(),
        damaged(format=2),
        damaged(cases={}),
        damaged(cases=float("nan")),
        damaged(target="other"),
        damaged(device=["cpu"]),
        b"cos\nsystem\n(S'false'\ntR.",
    ],
)
def test_a_file_that_is_not_ours_is_ignored_with_a_warning_and_left_alone(database, content):
    file = file_of(database)
    file.write_bytes(content)
    assert cases_of(database, *KEY) == ()
    database.add(*KEY, entry(CASES[0]))
    database.forget(*KEY, stored(CASES[0]))
    assert file.read_bytes() == content
    (warning,) = database.warnings
    assert warning.startswith(f"{file} is ignored until somebody deletes or repairs it: ")


def test_folders_pipes_and_broken_links_in_place_of_a_file_neither_block_nor_break(database):
    file = file_of(database)
    for make in (Path.mkdir, lambda p: os.mkfifo(p), lambda p: p.symlink_to("nowhere")):
        file.unlink() if not file.is_dir() else file.rmdir()
        make(file)
        assert cases_of(database, *KEY) == ()
        database.add(*KEY, entry(CASES[0]))
    assert len(database.warnings) == 1


UNSOUND = [
    None,
    [],
    {},
    {"kind": ["kernel"]},
    {"kind": "other"},
    {"kind": "kernel", "unknown": 1},
    {"kind": "kernel", "batch": "2"},
    {"kind": "kernel", "batch": True},
    {"kind": "kernel", "batch": 2.0},
    {"kind": "kernel", "batch": 10**30},
    {"kind": "kernel", "batch": 4096, "queries": 4096, "keys": 4096},
    {"kind": "kernel", "value_size": 1 << 20, "batch": 1 << 10},
    {"kind": "kernel", "seed": -1},
    {"kind": "kernel", "seed": 1 << 32},
    {"kind": "kernel", "scale": 10**400},
    {"kind": "kernel", "dtype": "float8"},
    {"kind": "kernel", "dtype": ["float32"]},
    {"kind": "kernel", "fault": "__import__('os')"},
    {"kind": "kernel", "mask": []},
    {"kind": "kernel", "mask": "abc"},
    {"kind": "kernel", "mask": {"structure": 3}},
    {"kind": "kernel", "mask": {"axes": "st"}},
    {"kind": "kernel", "before": 3},
    {"kind": "kernel", "before": [3]},
    {"kind": "kernel", "before": [{"batch": "2"}]},
    {"kind": "forward", "keys": "3"},
    {"kind": "forward", "mask": 3},
    {"kind": "script", "steps": 3},
    {"kind": "script", "steps": ["self"]},
    {"kind": "script", "steps": [{"act": "explode"}]},
    {"kind": "script", "steps": [{"order": [1, "x"]}]},
    {"kind": "script", "steps": [{"length": 1 << 20}], "batch": 100},
    {"kind": "sizes", "n_state": None},
]


@pytest.mark.parametrize("data", UNSOUND, ids=lambda data: str(data)[:60])
def test_a_case_that_the_suite_could_not_have_drawn_is_ignored_and_the_others_are_not(database, data):
    file = file_of(database)
    written = json.loads(file.read_text())
    written["cases"].insert(0, {"check": "a_check", "case": data, "claims": CLAIMS, "message": "m"})
    file.write_text(json.dumps(written))
    assert cases_of(database, *KEY) == (CASES[0],)
    assert len(database.warnings) == 1
    assert database.warnings[0].startswith(f"{file}: case 1 is ignored: ")


@pytest.mark.parametrize("target", ["attn-flash", "attn-flash-kernel"])
def test_every_case_that_the_suite_draws_is_sound(target):
    found, _ = subject(target)

    def drawn(check):
        @settings(max_examples=12, backend=BACKEND, database=None, suppress_health_check=list(HealthCheck))
        @seed(0)
        @given(check.cases(check.narrowed(found.scope)))
        def example(case):
            assert sound_case(json.loads(json.dumps(case.to_json()))) == case

        example()

    for check in (check for group in checks().values() for check in group):
        if found.kind in check.kinds and not check.lacks(found.scope):
            drawn(check)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_is_no_error(tmp_path):
    tmp_path.chmod(0o500)
    read_only(Database(tmp_path / "kept"))


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    read_only(Database(tmp_path / "file"))
    read_only(Database(tmp_path / "file" / "kept"))


def read_only(database):
    for name in ("MASK-1", "MASK-2"):
        database.add(name, *KEY[1:], entry(CASES[0]))
        assert cases_of(database, name, *KEY[1:]) == ()
    (warning,) = database.warnings
    assert warning.startswith(f"counterexamples are not stored in {database.folder}: ")


def test_a_write_that_fails_half_way_leaves_the_old_file(database, monkeypatch):
    file = file_of(database)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    database.add(*KEY, entry(CASES[1]))
    assert cases_of(database, *KEY) == (CASES[0],)
    assert database.warnings == [
        f"counterexamples are not stored in {database.folder}: No space left on device"
    ]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_those_who_write_at_once_leave_a_whole_file(tmp_path):
    cases = [KernelCase(seed=seed) for seed in range(8)]

    def write(case):
        mine = Database(tmp_path / "kept")
        for _ in range(20):
            mine.add(*KEY, entry(case, "m" * 2000))
            assert cases_of(mine, *KEY)
        return mine.warnings

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, cases)) == [[]] * 8
    assert set(cases_of(Database(tmp_path / "kept"), *KEY)) <= set(cases)


def test_a_shelf_gives_what_was_found_under_the_same_claims(database):
    shelf, other = (database.shelf(*KEY[1:], claims) for claims in (CLAIMS, {"dtypes": ["float64"]}))
    shelf.add("MASK-1", stored(CASES[0]), "m")
    other.add("MASK-1", stored(CASES[1]), "m")
    assert shelf.cases("MASK-1") == (stored(CASES[0]),)
    assert other.cases("MASK-1") == (stored(CASES[1]),)
    shelf.forget("MASK-1", stored(CASES[0]))
    assert shelf.cases("MASK-1") == ()


def result(*rows):
    """The entry of a result file that holds these rows."""
    report = Report(
        "t", "kernel", "kernel", "numpy", CLAIMS, 0, "smoke", {r.requirement: r for r in rows}, 1.0
    )
    return json.loads(json.dumps(to_json([report], suite="0", spec="1")))["results"][0]


def failed(check="a_check", **case):
    return Row("MASK-2", "must", "failed", check=check, counterexample={"kind": "kernel"} | case)


def test_the_counterexamples_of_a_result_file():
    rows = Row("MASK-1", "must", "failed"), failed(batch=3)
    assert counterexamples(result(*rows), CLAIMS) == {"MASK-2": (stored(KernelCase(batch=3)),)}


@pytest.mark.parametrize(
    ("rows", "claims", "message"),
    [
        ([failed(batch="2")], CLAIMS, "the counterexample of MASK-2 cannot be replayed: batch cannot be '2'"),
        ([failed(check=None)], CLAIMS, "MASK-2 cannot be replayed: it does not name the check"),
        ([failed()], {"dtypes": ["float64"]}, r"the result of t was made under other claims \(dtypes\)"),
        ([Row("MASK-1", "must", "passed")], CLAIMS, "the result of t has no counterexample to replay"),
    ],
)
def test_what_cannot_be_replayed_is_an_error(rows, claims, message):
    with pytest.raises(ValueError, match=message):
        counterexamples(result(*rows), claims)
