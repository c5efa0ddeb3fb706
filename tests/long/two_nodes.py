"""Is a training on two nodes the same as one in two processes of one node?

    python tests/long/two_nodes.py

Two launchers stand for the nodes, on this machine, with a process each; they meet at a port of the loopback address.
Exit code 1 where weights, logs or what was found differ in a single bit, or a second folder was made.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.scripts import phantom_yaml, tiny_cfg
from tests.torchrun import LAUNCHER, assert_same_run, environment, launched
from utils.config import ROOT
from utils.flags import Flag, parse
from utils.log import InputError, run_script

FLAGS = (
    Flag("epochs", 3, "of the training", int),
    Flag("sync-bn", False, "batch normalisation over both"),
    Flag("traceback", False, "show where an error arose"),
)


def main(options: argparse.Namespace) -> None:
    """Train both ways and compare."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        flags = (
            "--data", str(phantom_yaml(place, frames=3)), "--cfg", str(tiny_cfg(place)), "--img", "64", "--batch", "8",
            "--epochs", str(options.epochs), "--project", str(place / "runs"), "--noplots", "--bootstrap", "0",
            "--threads", "1", "--no-amp", *(["--sync-bn"] if options.sync_bn else []),
        )  # fmt: skip
        one = launched(
            "--standalone", "--nproc_per_node", "2", script="train.py", arguments=(*flags, "--name", "one-node")
        )
        if one.returncode:
            raise InputError(f"one node: exit code {one.returncode}: {one.stderr[-1000:]}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        nodes = []
        for rank in range(2):
            meeting = ["--nnodes=2", f"--node-rank={rank}", "--master-addr=127.0.0.1", f"--master-port={port}"]
            command = [*LAUNCHER, *meeting, "--nproc-per-node=1", str(ROOT / "train.py"), *flags, "--name", "two-nodes"]
            with (place / f"node{rank}.txt").open("wb") as log:
                nodes.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment()))
        codes = [node.wait(timeout=600) for node in nodes]
        if any(codes):
            raise InputError(f"two nodes: exit codes {codes}: {(place / 'node0.txt').read_text()[-1000:]}")
        runs = sorted(folder.name for folder in (place / "runs").iterdir())
        if runs != ["one-node", "two-nodes"]:
            raise InputError(f"expected a folder for each training, got {', '.join(runs)}")
        assert_same_run(place / "runs" / "one-node", place / "runs" / "two-nodes")
    print("Two nodes and one end alike, bit for bit; one folder, one writer")


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
