"""What does a DICOM cine loop cost ``detect.py`` beyond the network's time for its frames?

    python benchmarks/study_speed.py --weights runs/train/exp/weights/best.pt
    python benchmarks/study_speed.py --weights best.pt --source loop.dcm --img 640

Decoding, network and writing overlap; alone, the network is given the same frames, decoded already and cropped to their
region, in batches of the same size. Ways take turns: the network alone, decoding alone, the report without and with its
page, and with the drawn video, too. The report itself is written once a study, and has a column of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import detect
from benchmarks.measure import JSON, Row, in_turns, ratio, report
from tests.dicoms import write_dicom
from utils.archive_run import settings_of
from utils.checkpoint import one_checkpoint
from utils.detection import Detection, batches
from utils.flags import IMGSZ, Flag, from_keywords, parse
from utils.interrupt import Interrupts
from utils.ledger import Ledger
from utils.log import progress, run_script
from utils.phantom import PhantomConfig, plan, render
from utils.predict import load
from utils.regions import COLOUR, FLAT, Region
from utils.reporting import Report
from utils.sources import FRAMES_AHEAD, Frame, Source, open_source

SYNTAXES = ("explicit", "jpeg", "rle", "jpeg 2000", "h.264")
NETWORK, DECODING = "network alone", "decoding alone"
WAYS = {
    "report": {"save_study": True, "nosave": True},
    "report with page": {"save_html": True, "nosave": True},
    "report with page, drawn video": {"save_html": True},
}
FLAGS = (
    Flag("weights", "", "checkpoint of a training", nargs="+"),
    Flag("source", "", "a DICOM file; phantom loops of 300 frames in several transfer syntaxes unless given"),
    Flag("frames", 300, "of a phantom loop", int),
    Flag("height", 600, "of its frames, in pixels, 4 to 3", int),
    Flag("syntaxes", SYNTAXES, "of phantom loops, by the names in tests/dicoms.py", nargs="+"),
    Flag(IMGSZ, 640, "pixels of the longer side, as the network sees it", int),
    Flag("ways", (DECODING, *WAYS), "to time beside the network", nargs="+", choices=(DECODING, *WAYS)),
    Flag("rounds", 3, "in which each way is timed once", int),
    JSON,
    Flag("traceback", False, "show where an error arose"),
)


def main(options: argparse.Namespace) -> None:
    """Time the ways for each loop and print the table."""
    weights = one_checkpoint(options.weights).resolve()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {Path(options.source).name: Path(options.source)}
        for loop, path in (given if options.source else phantom_loops(options, folder)).items():
            rows += compared(loop, Loop(weights, path, options.imgsz, folder), options.rounds, options.ways)
    report("study_speed", rows, options.json)


def compared(name: str, loop: Loop, rounds: int, chosen: Sequence[str]) -> list[Row]:
    """A row a way."""
    ways = {NETWORK: loop.network, DECODING: loop.decoded, **{way: partial(loop.detected, way) for way in WAYS}}
    ways = {way: ways[way] for way in ways if way in chosen or way == NETWORK}
    figures = in_turns(ways, rounds, name)
    return [
        {
            "loop": name, "way": way, "frames": len(loop.frames), "s": min(figures[way]),
            "ms a frame": 1000 * min(figures[way]) / len(loop.frames),
            "ratio": ratio(figures[way], figures[NETWORK]), "report, s": loop.reports.get(way, 0.0),
        }
        for way in ways
    ]  # fmt: skip


def phantom_loops(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The same frames as DICOM files, one a transfer syntax, with a region around the sector and text outside it."""
    height, width = options.height, options.height * 4 // 3
    config = PhantomConfig(frames=12, height=height, width=width)
    pictures = [render(config, frame)[0] for frame in plan(config)[:12]]
    frames = np.stack([pictures[number % len(pictures)] for number in range(options.frames)])
    frames[:, 4 : height // 30, 4 : width // 4 : 3] = 255
    region = Region((width // 20, height // 25, width - width // 20, height), FLAT, COLOUR, (0.03, 0.03))
    return {
        syntax: write_dicom(folder / f"{syntax}.dcm", frames, syntax=syntax, regions=[region], frame_time=33.3)
        for syntax in progress(options.syntaxes, "loops", unit="file")
    }


class Loop:
    """One file, detected in over and over."""

    def __init__(self, weights: Path, path: Path, imgsz: int, folder: Path) -> None:
        self.weights, self.path, self.folder, self.imgsz = weights, path, folder, imgsz
        self.predictor = load(weights, imgsz=imgsz)
        self.frames: list[Frame] = list(self._source())
        self.reports: dict[str, float] = {}
        for _ in self._detection("report").predicted([self.frames[:4]], Interrupts()):
            pass  # compiles kernels

    def network(self) -> float:
        """Seconds that the network takes for the frames, decoded already."""
        detection = self._detection("report")
        start = time.perf_counter()
        for _ in detection.predicted(batches(self.frames, detection.size), Interrupts()):
            pass
        return time.perf_counter() - start

    def decoded(self) -> float:
        """Seconds that the frames take to be decoded, by themselves."""
        start = time.perf_counter()
        for _ in self._source():
            pass
        return time.perf_counter() - start

    def detected(self, way: str) -> float:
        """Seconds from the first byte that is read to the last that is written, but for the report."""
        detection, source = self._detection(way), self._source()
        run = Path(tempfile.mkdtemp(dir=self.folder))
        start = time.perf_counter()
        ledger = Ledger(run, settings_of(detection.options, detection, [self.weights]), naming=detection.naming)
        ledger.add(source.files)
        with Interrupts() as interrupts, closing(iter(source)) as arriving:
            detection.work(arriving, source.total, detection.writer(run, ledger, source.failures), interrupts)
        taken = time.perf_counter() - start
        start = time.perf_counter()
        Report(ledger, detection, [(self.weights.name, "0" * 64)]).write()
        self.reports[way] = time.perf_counter() - start
        return taken

    def _source(self) -> Source:
        source = open_source(str(self.path), study=True)
        source.ahead = FRAMES_AHEAD
        return source

    def _detection(self, way: str) -> Detection:
        options = from_keywords(
            detect.FLAGS,
            {"weights": str(self.weights), "source": str(self.path), "project": str(self.folder), **WAYS[way]},
        )
        source = self._source()
        size = detect.batch_size(options, source, self.predictor)
        naming = detect.output_names(options, source, report=True)
        return Detection(options, self.predictor, *detect.shown_names(options, self.predictor), size, naming)


if __name__ == "__main__":
    sys.exit(run_script(main, parse(FLAGS, __doc__ or "")))
