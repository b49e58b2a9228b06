"""Mechanical mutants, changed operators, numbers, terms and branches, and who sees them. By hand, on many cores.

python .ci/mutation OUT [FILE...] [--known FOLDER] [--jobs N] [--seconds 520] [--sample N] [--seed N] [--again]
                        [--explained]

A file of `JUDGED` is part of what judges: its mutants are posed to the unit tests about it. One of `SUBJECTS` is a
right implementation: the suite judges its mutants, and one lives if every row is what it is without the mutation.
Without FILE, a part of a path, all of both are mutated, in this order. OUT gets a file of results for each call,
000.jsonl, 001.jsonl and so on, and survivors.json: those that docs/selftest/mutation.toml does not explain. What a
.jsonl file of OUT or of a FOLDER holds is done; such files copied into one folder are merged. --again tries again what
lived or took too long, --explained also what the table explains.

Mutants are made by the operators of Cosmic Ray (pip install cosmic-ray), a selection of them, and by some of our own on
top: its own arithmetic ones replace + by - and so on, but leave out no term, take no other branch, and change no number
by 10 %, and these are what makes a bound loose.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import chain
from pathlib import Path

from judging import prepare, unmutated, work
from mutating import explained, is_explained, key, mutants
from settings import JUDGED, SUBJECTS


def main():
    """Mutate, run, write down, and say what lives."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("out", type=Path)
    options.add_argument("files", nargs="*")
    options.add_argument("--known", type=Path, action="append", default=[], help="folder of earlier results")
    options.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--seconds", type=float, default=520, help="after which no new mutant is begun")
    options.add_argument("--sample", type=int, help="of so many places of each file")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--again", action="store_true", help="anew, what is not known as killed")
    options.add_argument("--explained", action="store_true", help="those that the table explains, too")
    given = options.parse_args()
    ends = time.monotonic() + given.seconds
    known_files = (*JUDGED, *SUBJECTS)
    if unknown := [part for part in given.files if not any(part in file for file in known_files)]:
        options.error(f"nothing is mutated of {', '.join(unknown)}")
    files = [file for file in known_files if not given.files or any(part in file for part in given.files)]
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / f"{len(list(given.out.glob('*.jsonl'))):03}.jsonl"
    done = dict(chain.from_iterable(map(read, (*given.known, given.out))))
    if given.again:
        done = {at: one for at, one in done.items() if one["outcome"] == "killed"}

    pool = ProcessPoolExecutor(given.jobs, multiprocessing.get_context("fork"), prepare)
    known, all_mutants = {}, mutants(files, pool, given.sample, given.seed)
    reasons = explained()
    todo = [
        one
        for at, one in all_mutants.items()
        if at not in done and (given.explained or not is_explained(one, reasons))
    ]
    random.Random(given.seed).shuffle(todo)
    todo.sort(key=lambda one: files.index(one["file"]))
    for one in as_completed([pool.submit(unmutated, file) for file in {m["file"] for m in todo}]):
        file, before, seconds = one.result()
        known[file] = before, 30 + 4 * seconds
        print(
            f"{file}: {seconds:.0f} s without a mutation; apart: {before if file in JUDGED else ''}",
            flush=True,
        )
    print(f"{len(all_mutants)} mutants, {len(done)} done before, {len(todo)} to do", flush=True)

    waiting, running = iter(todo), set()
    with results.open("a", encoding="utf-8") as file:

        def begin():
            if time.monotonic() < ends and (mutant := next(waiting, None)) is not None:
                running.add(pool.submit(work, mutant, *known[mutant["file"]], ends + 50))

        for _ in range(given.jobs):
            begin()
        while running:
            finished = next(as_completed(running))
            running.discard(finished)
            one = finished.result()
            if one["outcome"] == "unfinished":
                continue
            done[key(one)] = one
            file.write(json.dumps(one) + "\n")
            file.flush()
            begin()
    pool.shutdown()
    return told(given, files, all_mutants, done)


def read(folder):
    """The results in a folder, by key."""
    for file in sorted(folder.glob("*.jsonl")):
        for one in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            yield key(one), one


def told(given, files, all_mutants, done):
    """Print the counts, write the survivors, and give the exit status: 1 for those that nothing explains."""
    reasons, rest = explained(), []
    for file in files:
        mine = [one for one in all_mutants.values() if one["file"] == file]
        found = [done[key(one)] for one in mine if key(one) in done]
        lives = [one for one in found if one["outcome"] == "survived"]
        unexplained = [one for one in lives if not is_explained(one, reasons)]
        equal = sum(is_explained(one, reasons) for one in mine)
        untried = [one for one in mine if key(one) not in done and not is_explained(one, reasons)]
        rest += unexplained
        print(
            f"{file}: {len(mine)} mutants, {len(found)} tried in {sum(one['seconds'] for one in found):.0f} s, "
            f"{len(found) - len(lives)} killed ({sum(one['outcome'] == 'timeout' for one in found)} by time), "
            f"{equal} equivalent, {len(unexplained)} unexplained, {len(untried)} to do"
        )
    (given.out / "survivors.json").write_text(json.dumps(rest, indent=1) + "\n", encoding="utf-8")
    known = {
        (one["file"], one["before"], after) for one in all_mutants.values() for after in (one["after"], "any")
    }
    stale = [at for at in reasons if at[0] in files and at not in known and given.sample is None]
    for at in stale:
        print("explained, yet no mutant:", at)
    return 1 if rest or stale else 0


if __name__ == "__main__":
    sys.exit(main())
