"""Hostile files of every kind, by the thousand: each read, or refused in one clear line. Needs no pytest.

python tests/long/hostile.py --cases 10000 --seed 0

Files are read in processes of their own, a kind at a time, so that one that hangs or takes all memory ends its process
alone. Whatever fails is kept as a file, whose path is printed. Exit code 1 after any fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from tqdm import tqdm  # noqa: E402

from tests.hostile import KINDS, LONGEST_WAIT, Case, Fault, by_hand, cases, check, prepare  # noqa: E402
from utils.log import LOGGER  # noqa: E402

SPARE_MEMORY = 3_000_000_000  # bytes of addresses that a process may ask for beyond those it starts with
PATIENCE = LONGEST_WAIT + 5.0  # seconds without a word after which a process counts as hanging
TURNS = 40  # of drawing, each with a seed of its own, until there are as many files that differ as are asked for
TOLD = "told"  # a file in a place: the case that is being read


def work(kind: str, place: Path, count: int, number: int, seen: Path) -> None:
    """Read files of a kind in this process, each once, saying a line of json for each; the child's side.

    Args:
        count: files in all, with those that earlier processes have read.
        seen: a file of the digests of files that were read.
    """
    import torch

    torch.set_num_threads(1)
    LOGGER.setLevel("CRITICAL")
    area = prepare(place)
    here = place / "here"
    here.mkdir()
    os.chdir(here)  # what is written to a relative path shows
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_MEMORY,) * 2)
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # only our lines reach the parent

    known = set(seen.read_text().split()) if seen.exists() else set()  # earlier processes' files, too
    written = seen.open("a", buffering=1)

    def one(case: Case) -> None:
        print_of_it = hashlib.sha256(case.name.encode() + b"\0" + case.content).hexdigest()
        if len(known) >= count or print_of_it in known:  # the latter is drawn again and again: many ways lead to a file
            return
        known.add(print_of_it)
        written.write(f"{print_of_it}\n")
        # beside the place, where no listing looks
        place.with_name(TOLD).write_text(json.dumps([case.name, case.origin]))
        try:
            ending, line = check(case, place)
        except Fault as fault:
            ending, line = "fault", str(fault)
            kept = place.with_name("kept")
            kept.mkdir(exist_ok=True)
            (kept / f"{len(list(kept.iterdir())):04}-{case.name}").write_bytes(case.content)
        said.write(json.dumps({"ending": ending, "line": line[:2000]}) + "\n")

    for case in by_hand(kind, area):
        one(case)
    for turn in range(TURNS):
        if len(known) >= count:
            break

        @seed(number + TURNS * len(known) + turn)
        @settings(
            max_examples=max(count - len(known), 50), deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(cases(kind, area))
        def drawn(case: Case) -> None:
            one(case)

        drawn()


def watch(kind: str, count: int, number: int, kept: Path) -> Iterator[tuple[str, str]]:
    """Have files of a kind read; the ending of each, and a line. A process that hangs or dies is replaced."""
    done, seen = 0, Path(tempfile.mkdtemp(prefix="hostile-seen-"), "digests")
    while done < count:
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            place = Path(folder, "place")
            place.mkdir()
            words = [sys.executable, __file__, "--worker", kind, "--place", str(place)]
            words += ["--cases", str(count), "--seed", str(number), "--seen", str(seen)]
            said: queue.Queue[str | None] = queue.Queue()
            with subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
            ) as process:
                threads = [
                    threading.Thread(target=_forward, args=(process.stdout, said), daemon=True),
                    threading.Thread(target=(errors := _Tail()).follow, args=(process.stderr,), daemon=True),
                ]
                for thread in threads:
                    thread.start()
                before, end = done, "hangs"
                try:
                    while (line := said.get(timeout=PATIENCE + (60 if done == before else 0))) is not None:
                        spoken = json.loads(line)
                        done += 1
                        yield spoken["ending"], spoken["line"]
                    end = f"ended with {process.wait()}: {errors.text[-300:]}"
                except queue.Empty:
                    process.kill()
                for path in sorted(Path(folder, "kept").glob("*")):
                    shutil.copy(path, kept / f"{kind}-{number + before}-{path.name}")
                if end.startswith("ended with 0:"):
                    break  # also with fewer than asked for, where no more files that differ are found
                if not Path(folder, TOLD).exists():
                    raise RuntimeError(f"{kind}: nothing was read: its process {end}")
                name, origin = json.loads(Path(folder, TOLD).read_text())
                culprit = place / "area" / name
                target = kept / f"{kind}-{number + done}-{name}"
                if culprit.exists():
                    shutil.copy(culprit, target)
                done += 1
                yield "fault", f"{kind} {name} ({origin}): its process {end}; kept as {target}"
    shutil.rmtree(seen.parent, ignore_errors=True)


def _forward(stream: Any, said: queue.Queue[str | None]) -> None:
    for line in stream:
        said.put(line)
    said.put(None)


class _Tail:
    """The end of what a process says on standard error."""

    def __init__(self) -> None:
        self.text = ""

    def follow(self, stream: Any) -> None:
        for line in stream:
            self.text = (self.text + line)[-2000:]


def main() -> int:
    """Read the files, print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="files in all (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="only these")
    parser.add_argument("--keep", type=Path, default=None, help="folder for files that fail (default: a temporary one)")
    for hidden in ("--worker", "--place", "--seen"):  # of a process that reads
        parser.add_argument(hidden, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, Path(options.place), options.cases, options.seed, Path(options.seen))
        return 0
    kept = options.keep or Path(tempfile.mkdtemp(prefix="hostile-kept-"))
    kept.mkdir(parents=True, exist_ok=True)
    endings: dict[str, Counter[str]] = {kind: Counter() for kind in options.kinds}
    told: list[str] = []
    each = -(-options.cases // len(options.kinds))
    with tqdm(total=each * len(options.kinds), unit="file", mininterval=0.1 if sys.stderr.isatty() else 10) as bar:
        for kind in options.kinds:
            bar.set_description(kind)
            for ending, line in watch(kind, each, options.seed, kept):
                endings[kind][ending] += 1
                bar.update()
                if ending == "fault":
                    told.append(line)
                    tqdm.write(line[:600], file=sys.stderr)
    print(f"{'kind':<12}{'cases':>8}{'results':>9}{'refused':>9}{'faults':>8}")
    rows = [*endings.items(), ("all", sum(endings.values(), Counter()))]
    for kind, found in rows:
        print(f"{kind:<12}{sum(found.values()):>8}{found['result']:>9}{found['refused']:>9}{found['fault']:>8}")
    if told:
        print(f"\n{len(told)} faults; the files are in {kept}")
    elif options.keep is None:
        shutil.rmtree(kept, ignore_errors=True)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
