"""Which CBAM gate starts better from a stock network's weights: the identity, or the paper's?

    python benchmarks/cbam_gate.py --data data/phantom.yaml --img 224 --epochs 10

Trains a stock detector, then, from its weights, the joint network once with each gate, and once each from scratch.
Prints mAP50 at the start, after the first epoch and after the last, and the view's accuracy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from models.attention import GATES
from models.yolo import Network, load_matching
from utils import checkpoint
from utils.config import ROOT, find_file, from_here, load_dataset_config, load_yaml
from utils.dataset import EchoDataset, build_loader
from utils.devices import select_compute
from utils.evaluation import Thresholds, evaluate, inference_copy
from utils.files import LAST, write_json
from utils.flags import COMMON, IMGSZ, Flag, parse
from utils.log import run_script
from utils.loggers import read_results

FLAGS = (
    Flag("data", "data/phantom.yaml", "dataset yaml with views"),
    Flag("size", "n", "of the networks", choices=tuple("nsmlx")),
    Flag(IMGSZ, 224, "pixels", int),
    Flag("epochs", 10, "of each training", int),
    Flag("seed", 42, "of each training", int),
    Flag("project", "runs/cbam_gate", "folder of the runs", from_here),
    *COMMON,
)


def main(options: argparse.Namespace) -> None:
    """Run the five trainings and print the table."""
    common = {
        "data": options.data, "imgsz": options.imgsz, "epochs": options.epochs, "seed": options.seed,
        "project": options.project, "device": options.device, "amp": options.amp, "noplots": True,
    }  # fmt: skip
    stock = train.run(**common, name="stock", cfg=f"models/hub/yolov5{options.size}.yaml", hyp="detection_only.yaml")
    weights = stock / LAST
    rows = [_row("stock detector", read_results(stock / "results.csv"), None)]
    for gate in GATES:
        cfg = stock.parent / f"{gate}.yaml"
        description = {**load_yaml(ROOT / "models" / f"yolov5{options.size}.yaml"), "cbam_gate": gate}
        cfg.write_text(yaml.safe_dump(description))
        for start in (weights, None):
            name = f"{gate}, {'from stock weights' if start else 'from scratch'}"
            run = train.run(**common, name=gate, cfg=str(cfg), weights=str(start or ""))
            rows.append(
                _row(name, read_results(run / "results.csv"), first_map50(cfg, weights, options) if start else 0)
            )
    write_json(stock.parent / "cbam_gate.json", rows)
    print(f"\n{'network':<32}{'start':>8}{'epoch 1':>9}{'last':>8}{'best':>8}{'view':>8}")
    for row in rows:
        cells = (row["start"], row["first"], row["last"], row["best"], row["view"])
        print(f"{row['name']:<32}" + "".join("       -" if c is None else f"{c:>8.3f}" for c in cells))


def _row(name: str, results: list[dict[str, float]], start: float | None) -> dict[str, object]:
    map50 = [row["metrics/mAP_0.5"] for row in results]
    view = results[-1]["metrics/view_accuracy"]
    return {
        "name": name, "start": start, "first": map50[0], "last": map50[-1], "best": max(map50),
        "view": None if view != view else view,
    }  # fmt: skip


def first_map50(cfg: Path, weights: Path, options: argparse.Namespace) -> float:
    """mAP50 of the joint network with the stock weights in it, before any training."""
    found = checkpoint.read(weights)
    config = load_dataset_config(find_file(options.data, "data", flag="--data"))
    network = Network(load_yaml(cfg), nc=len(config.names), nv=len(config.view_names))
    load_matching(network, found.content["ema"])
    compute = select_compute(options.device, options.amp)
    loader = build_loader(EchoDataset(config, "val", found.image_size), 32, 0)
    result = evaluate(inference_copy(network, compute), loader, len(config.names), 0, compute, Thresholds())
    return result.detection.map50


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
