"""Is a frame ever missing or written twice where detect.py is killed, at random moments, and started again?

    python tests/long/detect_kill.py
    python tests/long/detect_kill.py --kills 50 --processes 3 --seed 7

One plain process detects first. Then several under torchrun do, and are killed (SIGKILL, all at once) again and again,
each time after a random number of further files; where all are finished, they begin anew in another folder. Every file
must hold the same bytes as the plain process's, and no marker of a finished file may have been written anew. Exit code
1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.archives import command, kill_all, make_archive, markers, results, start, wait_for_markers
from tests.exported import saved
from utils.flags import Flag, parse
from utils.log import InputError, run_script

FLAGS = (
    Flag("kills", 20, "of torchrun and its processes", int),
    Flag("processes", 2, "of each start", int),
    Flag("stills", 200, "in the archive", int),
    Flag("seed", 0, "of the moments", int),
    Flag("traceback", False, "show where an error arose"),
)


def main(options: argparse.Namespace) -> None:
    """Kill and compare."""
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_archive(folder / "frames", options.stills, [60, 40, 20])
        finish(command(saved("rect"), source, folder / "runs", processes=1), 1)
        plain, kills, archives = results(folder / "runs" / "exp"), 0, 0
        while kills < options.kills:
            archives += 1
            arguments = command(
                saved("rect"), source, folder / "runs", "--name", f"shared{archives}", processes=options.processes
            )
            kills += killed(arguments, folder / "runs" / f"shared{archives}", options, moments, kills, plain)
        files = len(list(source.iterdir()))
        print(
            f"{kills} kills in {archives} runs of {files} files each: all as one plain process leaves them, none twice"
        )


def killed(
    arguments: list[str], run: Path, options: argparse.Namespace, moments: random.Random, kills: int,
    plain: dict[str, bytes],
) -> int:  # fmt: skip
    """Start until all is finished, and compare; returns how often it was killed before."""
    before: dict[str, tuple[int, int]] = {}
    count = 0
    while kills + count < options.kills:
        process = start(arguments, options.processes)
        wait_for_markers(run, len(before) + moments.randint(1, options.stills // 4), process)
        time.sleep(moments.uniform(0, 0.2))
        ended = process.poll() is not None
        kill_all(process)
        after = markers(run)
        check(before.items() <= after.items(), f"kill {kills + count + 1}: finished files were done again")
        before = after
        if ended:
            break
        count += 1
        print(f"kill {kills + count}: {len(after)} files finished", flush=True)
    finish(arguments, options.processes)
    found = results(run)
    check(before.items() <= markers(run).items(), "the last start: files that were finished were done again")
    check(plain.keys() == found.keys(), f"other files: {sorted(plain.keys() ^ found.keys())}")
    differing = [name for name in plain if plain[name] != found[name]]
    check(not differing, f"other bytes: {differing}")
    return count


def finish(arguments: list[str], processes: int) -> None:
    """Start and wait for a good end."""
    process = start(arguments, processes)
    _, errors = process.communicate()
    check(process.returncode == 0, f"exit code {process.returncode}: {errors[-2000:]}")


def check(holds: bool, message: str) -> None:
    """Raise an InputError unless it holds."""
    if not holds:
        raise InputError(message)


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
