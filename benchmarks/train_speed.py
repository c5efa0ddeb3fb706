"""How many images a second does a joint training make, against the plain path, and what is each technique worth?

    python benchmarks/train_speed.py
    python benchmarks/train_speed.py --rounds 3 --imgsz 640 --ways plain fast

Each way runs in a process of its own, in turns, and makes steps of the whole loop: frames, both losses, backward pass,
balancer, optimizer, running mean, balance.csv. The plain path is fp32 in torch's usual layout, frames decoded each time
by worker processes, fixed weights, an optimizer that takes weight by weight, memory given back to the system. Every
other way differs from it by what its name says; ``fast`` is what train.py does, with GradNorm. Memory is the process's
at most, worker processes not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import JSON, Row, answer, in_turns, phantom_yaml, ratio, report
from models.balancer import Balancer
from models.gradnorm import GradNorm
from models.yolo import Network
from utils.balance_log import BalanceLog
from utils.config import ROOT, find_file, load_dataset_config, load_hyperparameters, load_yaml
from utils.dataset import EchoDataset, build_loader
from utils.devices import Compute, keep_memory, seed_everything, select_compute
from utils.engine import train_one_epoch
from utils.flags import IMGSZ, THREADS, Flag, parse
from utils.learner import Learner
from utils.log import run_script
from utils.loss import JointLoss
from utils.optim import RunningMean, build_optimizer
from utils.schedule import Schedule
from utils.trainer import peak_memory


@dataclass(frozen=True)
class Way:
    """How a training is made."""

    channels_last: bool = False
    bf16: bool = False
    cached: bool = False
    kept_memory: bool = False
    fused: bool = False
    gradnorm: bool = False
    compiled: bool = False


PLAIN, FAST = Way(), Way(True, True, True, True, True, True)
WAYS = {
    "plain": PLAIN,
    "channels last": replace(PLAIN, channels_last=True),
    "bf16": replace(PLAIN, bf16=True),
    "channels last, bf16": replace(PLAIN, channels_last=True, bf16=True),
    "cached frames": replace(PLAIN, cached=True),
    "kept memory": replace(PLAIN, kept_memory=True),
    "fused optimizer": replace(PLAIN, fused=True),
    "fast, fixed weights": replace(FAST, gradnorm=False),
    "fast": FAST,
    "fast, compiled": replace(FAST, compiled=True),  # minutes of warm-up
}
USUAL = tuple(name for name, way in WAYS.items() if not way.compiled)
FLAGS = (
    Flag("cfg", "models/yolov5s.yaml", "network yaml"),
    Flag(IMGSZ, 320, "pixels", int),
    Flag("batch-size", 16, "frames", int),
    Flag("steps", 20, "of each way and round that are timed", int),
    Flag("rounds", 3, "in which each way is timed once", int),
    Flag("ways", USUAL, "to compare; plain is always among them", nargs="+", choices=tuple(WAYS)),
    Flag("only", "", "what a child process measures"),
    Flag("data", "", "dataset yaml of a child process"),
    Flag("device", "", "cpu or a GPU's number"),
    THREADS,
    JSON,
    Flag("traceback", False, "show where an error arose"),
)
WARM_UP = 4  # steps that are not timed


def main(options: argparse.Namespace) -> None:
    """Run the ways in turns and print the table; a child process measures one of them."""
    if options.only:
        print(json.dumps(measured(WAYS[options.only], options)))
        return
    rows = compared(options, ["plain", *(name for name in options.ways if name != "plain")])
    report("train_speed", rows, options.json)


def compared(options: argparse.Namespace, names: Sequence[str]) -> list[Row]:
    """A row a way: images a second and megabytes, and how they compare with the plain path's."""
    found: dict[str, list[Row]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        frames = (options.steps + WARM_UP) * options.batch_size
        height = max(min(240, options.imgsz * 3 // 4), 96)
        patients = max(frames * 4 // 3 // 24 + 6, 12)
        data = phantom_yaml(Path(folder), patients=patients, height=height, width=height * 4 // 3)

        def timed(name: str) -> float:
            size = ["--imgsz", str(options.imgsz), "--batch-size", str(options.batch_size)]
            more = ["--cfg", options.cfg, "--steps", str(options.steps), "--threads", str(options.threads)]
            child = ["--only", name, "--data", str(data), "--device", options.device]
            found[name].append(answer([str(Path(__file__)), *child, *size, *more]))
            return float(found[name][-1]["images a second"])

        figures = in_turns({name: lambda name=name: timed(name) for name in names}, options.rounds, "ways")  # type: ignore[misc]
    memory = {name: [row["megabytes"] for row in rows] for name, rows in found.items()}
    return [
        {
            "way": name,
            "images/s": statistics.median(figures[name]),
            "ratio": ratio(figures[name], figures["plain"]),
            "MB": statistics.median(memory[name]),
            "MB ratio": ratio(memory[name], memory["plain"]),
            "first step s": statistics.median(row["first step"] for row in found[name]),
        }
        for name in names
    ]


def measured(way: Way, options: argparse.Namespace) -> Row:
    """Train for the steps asked for."""
    learner, compute = learned(way, options)
    config = load_dataset_config(Path(options.data))
    dataset = EchoDataset(config, "train", options.imgsz, cache="ram" if way.cached else "none")
    log = BalanceLog(Path(options.data).parent / f"{options.only}.csv")
    times = []
    loader = build_loader(dataset, options.batch_size, 8, pin=compute.device.type == "cuda")
    batches: Any = loader.batch_sampler
    for epoch, steps in enumerate((1, WARM_UP - 1, options.steps)):
        batches.keys.length = steps * options.batch_size
        assert batches.keys.length <= len(dataset)
        start = time.perf_counter()
        train_one_epoch(learner, loader, compute, epoch, record=log.append)
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    log.close()
    megabytes = peak_memory() / 1e6
    if compute.device.type == "cuda":
        megabytes = torch.cuda.max_memory_allocated() / 1e6
    speed = options.steps * options.batch_size / times[-1]
    return {"images a second": speed, "megabytes": megabytes, "first step": times[0]}


def learned(way: Way, options: argparse.Namespace) -> tuple[Learner, Compute]:
    """A network with what trains it, and where."""
    if way.kept_memory:
        keep_memory()
    chosen = select_compute(options.device, way.bf16, options.threads)
    compute = Compute(chosen.device, chosen.amp, torch.channels_last if way.channels_last else torch.contiguous_format)
    seed_everything(0)
    hyp = load_hyperparameters(ROOT / "hyp" / "joint_training_rules.yaml")
    network = Network(load_yaml(find_file(options.cfg, "models", "models/hub", flag="--cfg")), nc=4, nv=3)
    compute.place(network)
    if way.compiled:
        compile_layers(network)
    optimizer = build_optimizer(network, "SGD", hyp.lr0, hyp.momentum, hyp.weight_decay)
    if not way.fused:
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=False)
    learner = Learner(
        network=network,
        running_mean=RunningMean(network),
        optimizer=optimizer,
        balancer=GradNorm() if way.gradnorm else Balancer((1.0, 1.0)),
        criterion=JointLoss.of(network, hyp, options.imgsz),
        schedule=Schedule(1e-4, 1.0, 9, False, 0, 0.0, 0.0, hyp.momentum, 1),
    )
    return learner, compute


def compile_layers(network: Network) -> None:
    """Compile each layer by itself with torch.compile; the graph stays for several backward passes."""
    import torch._functorch.config as functorch

    functorch.donated_buffer = False
    for index, layer in enumerate(network.model):
        if index not in (network.detect_index, network.view_index):
            layer.compile()


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
