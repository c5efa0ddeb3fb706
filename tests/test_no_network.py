"""No network: every script starts and works where sockets are blocked, and nothing even tries to open one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.scripts import SMALL, Done, phantom_yaml, run_in_one_process, tiny_cfg
from utils.config import ROOT
from utils.log import InputError
from utils.sources import open_source

# Python reads this module at its start, in every process below the folder's environment. An audit hook sees sockets
# however they are made, and cannot be taken off again; what it refuses it also writes down, since callers may swallow
# the error.
BLOCK = """
import os, sys

CALLS = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
         "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request")

def hook(event, arguments):
    if event == "subprocess.Popen":
        note("program", arguments[1] if not isinstance(arguments[1], (str, bytes)) else [arguments[1]])
    network = event in CALLS and not (event != "urllib.Request" and unix(arguments))
    if network or event == "socket.__new__" and arguments[1] in (2, 10, 17, 23, 30):  # inet, inet6, packet
        note("network", [event, *arguments[1:]])
        raise OSError(f"no network: {event}")

def unix(arguments):
    return getattr(arguments[0], "family", None) == 1

def note(kind, words):
    words = " ".join(os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in words)
    with open(os.environ["NOTED"], "a", encoding="utf-8") as file:
        file.write(f"{kind} {words}".replace("\\n", " ") + "\\n")

sys.addaudithook(hook)
"""

# Shows that the block blocks: what each attempt ends in, and what the kernel knows of a network.
PROOF = """
import json, os, socket, sys
from pathlib import Path

def refused(attempt):
    try:
        attempt()
    except OSError as error:
        return str(error)
    return "done"

attempts = [
    refused(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
    refused(lambda: socket.getaddrinfo("example.org", 80)),
    refused(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
]
socket.socketpair()  # between the threads and processes of one machine
Path(sys.argv[1]).write_text(json.dumps([attempts, [name for _, name in socket.if_nameindex()]]))
os.truncate(os.environ["NOTED"], 0)
"""

HUB = """
import sys
from pathlib import Path
import torch
model = torch.hub.load(sys.argv[1], "custom", path=sys.argv[2], source="local")
results = model([min(Path(sys.argv[3]).iterdir())], size=64)
assert len(results.pandas().xyxy) == 1 and len(results.views) == 1
"""


@dataclass(frozen=True)
class Found:
    """What came of every script without a network.

    Attributes:
        done: exit codes and texts.
        attempts: what three attempts to reach a network ended in.
        links: the kernel's ways out, None where it could not be told to have none.
        noted: attempts of the scripts, and programs that they started.
    """

    folder: Path
    done: Done
    attempts: list[str]
    links: list[str] | None
    noted: list[str]


def without_network() -> list[str]:
    """What to put before a command so that the kernel gives it no network; empty where that cannot be."""
    if shutil.which("unshare"):
        for words in (["unshare", "-n"], ["unshare", "-rn"]):  # as root, and as anyone
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
    return []


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Every script run once, on small data and a tiny network, without a network; what came of it."""
    folder = tmp_path_factory.mktemp("offline")
    data, cfg = phantom_yaml(folder, patients=9, frames=1), tiny_cfg(folder)
    block, home = folder / "block", folder / "home"
    for made in (block, home):
        made.mkdir()
    (block / "sitecustomize.py").write_text(BLOCK)
    hub, proof = folder / "use_hub.py", folder / "prove.py"
    hub.write_text(HUB)
    proof.write_text(PROOF)
    noted = folder / "noted.txt"
    noted.touch()
    runs, weights = folder / "runs", folder / "runs" / "exp" / "weights" / "best.pt"
    frames = folder / "phantom" / "images" / "test"
    few = (*SMALL, cfg, "--epochs", "1", "--data", data, "--threads", "1", "--bootstrap", "10")
    openvino = ["openvino"] if find_spec("openvino") else []  # it would report its use to its makers
    of_data = ("--data", data, "--bootstrap", "10")
    commands: list[tuple[str | Path, ...]] = [
        (proof, folder / "proof.json"),
        ("train.py", *few, "--project", runs),
        ("train_dual_backbone.py", *few, "--classifier", "resnet18", "--project", runs, "--name", "dual", "--noplots"),
        ("val.py", "--weights", weights, *of_data, "--project", folder / "val"),
        ("detect.py", "--weights", weights, "--source", frames, "--project", folder / "detect", "--save-csv"),
        ("export.py", "--weights", weights, "--include", "torchscript", *openvino),
        ("compare.py", runs / "exp", runs / "dual", *of_data, "--project", folder / "compare"),
        ("utils.splits", "--data", data, "--folds", "3", "--out", folder / "folds"),
        ("utils.labels", "--data", data, "--project", folder / "audit"),
        ("utils.preprocess", "--source", frames, "--out", folder / "filters"),
        (hub, ROOT, weights, frames),
    ]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")},
        **{f"{kind}_proxy": "http://nowhere.invalid:1" for kind in ("http", "https", "all")},
        **{f"{kind}_PROXY": "http://nowhere.invalid:1" for kind in ("HTTP", "HTTPS", "ALL")},
        "PYTHONPATH": str(block),
        "NOTED": str(noted),
        "HOME": str(home),
    }
    isolated = without_network()
    done = run_in_one_process(commands, environment=environment, before=isolated)
    attempts, links = json.loads((folder / "proof.json").read_text())
    lines = noted.read_text(encoding="utf-8").splitlines()
    return Found(folder, done, attempts, links if isolated else None, lines)


def test_what_blocks_the_network_does_block_it(found: Found) -> None:
    assert len(found.attempts) == 3 and all(text.startswith("no network: socket.") for text in found.attempts)
    if found.links is None:
        warnings.warn("no network namespace here (unshare): blocked within Python alone", stacklevel=1)
    else:
        assert found.links == ["lo"]  # the kernel knows no way out, whatever a library written in C does


def test_every_script_works_without_a_network(found: Found) -> None:
    assert found.done.codes == [0] * 11, found.done.text[-3000:]
    for name in (
        *("runs/exp/metrics.json", "runs/dual/weights/best.pt", "val/exp/metrics.json", "detect/exp/predictions.csv"),
        *("runs/exp/weights/best.torchscript", "compare/exp/comparison.html", "folds", "audit/exp", "filters"),
    ):
        assert (found.folder / name).exists(), name


def test_nothing_tries_to_reach_a_network_or_starts_a_program_that_does(found: Found) -> None:
    noted = [line.partition(" ")[::2] for line in found.noted]
    assert not [words for kind, words in noted if kind == "network"]
    programs = {words for kind, words in noted if kind == "program"}
    git = f"git -C {ROOT} rev-parse HEAD"
    assert git in programs
    names = {Path(word).name for words in programs for word in words.split()}
    assert not names & {"pip", "curl", "wget", "ssh"}
    assert not [words for words in programs if words.startswith("git") and words != git]


@pytest.mark.parametrize("suffix", ["mp4", "ts", "wmv"])
def test_a_playlist_that_is_named_like_a_video_leads_nowhere(tmp_path: Path, suffix: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        lists = {
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
            "concat": f"ffconcat version 1.0\nfile {address}\n",
            "reference": f"[Reference]\nRef1={address}\n",
            "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
            '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
            f"<BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        }
        for name, text in lists.items():
            path = tmp_path / f"{name}.{suffix}"
            path.write_text(text)
            with pytest.raises(InputError, match=r"a video expected|not a video that OpenCV can decode"):
                list(open_source(str(path)))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has knocked
            server.accept()
