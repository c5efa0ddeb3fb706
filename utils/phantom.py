"""The embedded data set: deterministic synthetic colour-Doppler echo frames with boxes and views, made at first use.

A drawing that keeps the rules a detector can use (a jet starts at its valve, is turbulent and widens into the
receiving chamber; normal flow is laminar and has no box). It shows that a training works, nothing about patients.

Lengths here are in units of the imaging depth: (0, 0) is the probe, y runs away from it to 1, x to the right. Angles
are in radians, 0 away from the probe, positive to the right.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.log import InputError, progress

VERSION = 2  # raise it with any change that changes a byte of the data set
VALVES = ("AR", "MR", "PR", "TR")
VIEWS = ("PLAX", "PSAX", "A4C")
RECORD = "phantom.json"
MOST_FRAMES, MOST_SIDE = 1_000_000, 4096
Floats = NDArray[np.floating]  # single precision wherever it is a whole frame
Box = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass(frozen=True)
class PhantomConfig:
    """What to draw; sizes in pixels, ``frames`` cover one heartbeat. InputError for a value that is too small."""

    patients: int = 36
    clips: int = 3
    frames: int = 8
    height: int = 240
    width: int = 320
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"patients": 3, "clips": 1, "frames": 1, "height": 96, "width": self.height, "seed": 0}
        for key, value in asdict(self).items():
            if not isinstance(value, int) or value < least[key]:
                raise InputError(f"phantom {key}: expected a whole number of at least {least[key]}, got {value!r:.80}")
        if max(self.height, self.width) > MOST_SIDE or self.patients * self.clips * self.frames > MOST_FRAMES:
            raise InputError(
                f"phantom: expected at most {MOST_FRAMES:,} frames, of at most {MOST_SIDE:,} pixels a side"
            )


@dataclass(frozen=True)
class Jet:
    """A regurgitant jet: its valve (index into ``VALVES``), size 0..1, and how it leaves the valve's usual course."""

    valve: int
    size: float
    swing: float  # radians added to the valve's direction
    bend: float  # sideways drift of the tip, in lengths of the jet
    polygon: bool  # its label row gives four corners instead of centre and size


@dataclass(frozen=True)
class FramePlan:
    """All that is decided about a frame before a pixel is drawn; ``patient``, ``clip`` and ``frame`` count from 1."""

    split: str
    patient: int
    clip: int
    frame: int
    view: int
    phase: float = 0.0  # of the cardiac cycle, 0..1
    jets: tuple[Jet, ...] = ()
    shows_view: bool = True  # whether the label file has a view row

    @property
    def name(self) -> str:
        return f"p{self.patient:02d}-c{self.clip:02d}-f{self.frame:04d}"


# In hundredths, each chamber's x, y, radius x, radius y, turn, and the part by which systole shrinks it.
_CHAMBERS = (
    # PLAX: right ventricle, left ventricle, aorta, left atrium
    ((-2, 25, 15, 6, 10, 10), (-25, 56, 26, 14, 12, 16), (21, 45, 19, 8, 20, -5), (25, 73, 21, 15, -10, -12)),
    # PSAX: aorta, right ventricle, right atrium, pulmonary artery, left atrium
    (
        (0, 51, 13, 12, 0, 0),
        (0, 28, 23, 9, 0, 12),
        (-28, 64, 15, 18, -30, -9),
        (29, 60, 8, 22, -20, 0),
        (1, 80, 20, 12, 0, -9),
    ),
    # A4C: left ventricle, right ventricle, left atrium, right atrium
    ((15, 41, 13, 24, -12, 16), (-17, 45, 11, 19, 15, 12), (19, 81, 16, 15, 0, -12), (-19, 79, 15, 15, 0, -12)),
)
# Of each view, the valves that can leak in it: x, y, direction of the jet, its length at full size.
_VALVES: tuple[dict[int, tuple[float, float, float, float]], ...] = (
    {0: (0.03, 0.495, -1.45, 0.32), 1: (0.04, 0.645, 1.0, 0.31)},
    {0: (0.0, 0.40, 0.05, 0.24), 2: (0.22, 0.36, -1.85, 0.31), 3: (-0.19, 0.405, -0.4, 0.31)},
    {1: (0.17, 0.645, 0.05, 0.31), 3: (-0.17, 0.635, -0.05, 0.31)},
)


def _rng(config: PhantomConfig, patient: int, clip: int = 0, frame: int = 0) -> np.random.Generator:
    """One stream for each patient, clip and frame, so that the order of drawing cannot matter."""
    return np.random.default_rng([config.seed, patient, clip, frame])


def plan(config: PhantomConfig) -> list[FramePlan]:
    """Every frame of the data set by name; about 70, 15 and 15 percent of the patients are train, val and test."""
    order = _rng(config, 0).permutation(config.patients) + 1
    held = max(1, round(0.15 * config.patients))
    frames = []
    for rank, patient in enumerate(order.tolist()):
        split = "val" if rank < held else "test" if rank < 2 * held else "train"
        for clip in range(1, config.clips + 1):
            view = (patient + clip) % len(VIEWS)
            leaks = [*combinations(_VALVES[view], 1), *combinations(_VALVES[view], 2)]
            # By turns, not by chance: a split of five patients still has every valve of every view.
            leaking = leaks[(rank + (clip - 1) // len(VIEWS)) % len(leaks)]
            frames += _plan_clip(config, FramePlan(split, patient, clip, 0, view), leaking)
    return sorted(frames, key=lambda frame: (frame.patient, frame.clip, frame.frame))


def _plan_clip(config: PhantomConfig, clip: FramePlan, leaking: tuple[int, ...]) -> list[FramePlan]:
    rng = _rng(config, clip.patient, clip.clip)
    start = rng.random()
    course = {valve: rng.uniform((0.25, -0.2, -0.25), (1.0, 0.2, 0.25)).tolist() for valve in leaking}
    frames = []
    for frame in range(1, config.frames + 1):
        rng = _rng(config, clip.patient, clip.clip, frame)
        phase = (start + (frame - 1) / config.frames) % 1.0
        shows_view, silent = rng.random() > 0.03, rng.random() < 0.11
        jets = []
        for valve, (severity, swing, bend) in course.items():
            shut, polygon, wobble = rng.random() < 0.1, rng.random() < 0.25, rng.normal(0, 0.05)
            if not silent and not (shut and len(leaking) > 1):
                size = severity * (0.7 + 0.3 * math.sin(math.pi * phase))
                jets.append(Jet(valve, size, swing + wobble, bend, polygon))
        frames.append(replace(clip, frame=frame, phase=phase, jets=tuple(jets), shows_view=shows_view))
    return frames


class _Canvas:
    """The pixels of one patient's scan in polar coordinates about the probe and in the heart's own upright ones."""

    def __init__(self, config: PhantomConfig, patient: int) -> None:
        rng = _rng(config, patient)
        unit = config.height * rng.uniform(0.88, 0.95)
        self.grain = config.height / 240  # keeps textures alike at other frame sizes
        self.gain = rng.uniform(0.8, 1.2)
        self.build = rng.uniform(-1, 1, (5, 4))  # this patient's chambers: deviations of place and size
        rows, columns = np.indices((config.height, config.width), dtype=np.float32)
        x = (columns - config.width * rng.uniform(0.45, 0.5)) / unit
        y = (rows - config.height * 0.03) / unit
        self.half = rng.uniform(0.70, 0.80)
        self.radius: Floats = np.hypot(x, y)
        self.angle: Floats = np.arctan2(x, y) - np.float32(rng.uniform(-0.05, 0.05))
        self.sector = (self.radius > 0.03) & (self.radius < 1) & (np.abs(self.angle) < self.half)
        side = self.radius * (rng.uniform(0.58, 0.66) - np.abs(self.angle))
        edges = np.minimum.reduce([self.radius - rng.uniform(0.16, 0.22), 0.96 - self.radius, side])
        self.window: Floats = np.where(self.sector, edges, np.float32(-1))  # colour is where this is positive
        tilt, scale = rng.uniform(-0.10, 0.10), rng.uniform(0.92, 1.06)
        x, y = (x - rng.uniform(-0.03, 0.03)) / scale, (y - 0.55 - rng.uniform(-0.02, 0.02)) / scale
        self.x: Floats = math.cos(tilt) * x - math.sin(tilt) * y
        self.y: Floats = math.sin(tilt) * x + math.cos(tilt) * y + 0.55

    def noise(self, rng: np.random.Generator, sigma: float) -> Floats:
        """Smooth noise over the frame, variance 1; ``sigma`` in pixels of a frame 240 high."""
        field = cv2.GaussianBlur(rng.standard_normal(self.x.shape, dtype=np.float32), (0, 0), sigma * self.grain)
        return np.asarray(field / field.std(), dtype=np.float32)

    def speckle(self, rng: np.random.Generator) -> Floats:
        """Rayleigh-like, mean about 1, drawn beam by beam so that grains are arcs that widen with depth."""
        waves = [cv2.GaussianBlur(rng.standard_normal((260, 110), dtype=np.float32), (0, 0), 0.9) for _ in range(2)]
        beams, samples = (self.angle / self.half + 1) * 54.5, self.radius * 259
        grains = cv2.remap(cv2.magnitude(*waves), beams, samples, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(grains / 0.39, dtype=np.float32)

    def along(self, x: float, y: float, direction: float) -> tuple[Floats, Floats]:
        """Distances along and across a ray from (x, y) of the heart."""
        sine, cosine, right, down = math.sin(direction), math.cos(direction), self.x - x, self.y - y
        return right * sine + down * cosine, right * cosine - down * sine

    def ellipse(self, x: float, y: float, wide: float, high: float, turn: float) -> Floats:
        """0 at an ellipse's centre, 1 on its border."""
        down, across = self.along(x, y, turn)
        return np.hypot(across / wide, down / high)

    def chambers(self, frame: FramePlan) -> list[list[float]]:
        """The ellipses of this patient's chambers at this moment of the beat."""
        shapes = np.array(_CHAMBERS[frame.view]) / 100
        build = self.build[: len(shapes)]
        shapes[:, :2] += 0.012 * build[:, :2]
        shapes[:, 2:4] *= (1 + 0.08 * build[:, 2:]) * (1 - shapes[:, 5:] * math.sin(math.pi * frame.phase) ** 2)
        return [row[:5] for row in shapes.tolist()]


def _tissue(canvas: _Canvas, frame: FramePlan, rng: np.random.Generator) -> Floats:
    """The grey picture, 0..1: blood dark, walls bright, leaflets across the valves, speckle over all."""
    wall = np.minimum.reduce([(canvas.ellipse(*shape) - 1) * min(shape[2:4]) for shape in canvas.chambers(frame)])
    echo = (0.34 + 0.05 * canvas.noise(rng, 14)) * np.where(wall > 0.10, np.float32(0.6), np.float32(1))
    echo += 0.35 * np.exp(-(((wall - 0.014) / 0.013) ** 2)) + 0.25 * np.exp(-(((wall - 0.10) / 0.010) ** 2))
    echo *= np.clip(0.5 + wall / 0.016, 0.07, 1)
    opening = 0.1 + 0.8 * math.sin(math.pi * frame.phase) ** 2
    for x, y, direction, _ in _VALVES[frame.view].values():
        down, across = canvas.along(x, y, direction)
        line = np.abs(down - 0.03 + opening * np.abs(across))
        echo += (0.85 - echo) * np.clip(1.7 - line / 0.005, 0, 1) * (np.abs(across) < 0.065)
    fade = (1.1 - 0.45 * canvas.radius) * np.clip((canvas.half - np.abs(canvas.angle)) / 0.06, 0.3, 1)
    return np.clip(canvas.gain * echo * fade * canvas.speckle(rng) ** 0.8, 0, 1) * canvas.sector


def _colour(velocity: Floats) -> Floats:
    """The Doppler scale, BGR 0..255: blue to cyan away from the probe, red to yellow towards it; wraps beyond 1."""
    stops = (-1, -0.5, -0.001, 0.001, 0.5, 1)
    scales = ((255, 230, 50, 0, 0, 90), (250, 80, 0, 0, 70, 245), (150, 0, 0, 50, 230, 255))
    bands = [np.interp((velocity + 1) % 2 - 1, stops, scale) for scale in scales]
    return np.stack(bands, axis=-1).astype(np.float32)


def _normal_flow(canvas: _Canvas, config: PhantomConfig, frame: FramePlan) -> list[tuple[Floats, Floats]]:
    """Laminar patches in some chambers, opacity and velocity; a clip keeps its patches through the heartbeat."""
    rng = _rng(config, frame.patient, frame.clip).spawn(1)[0]
    patches = []
    for x, y, wide, high, turn in canvas.chambers(frame):
        chance, peak, right, down, part = rng.uniform((0, 0.35, -0.3, -0.3, 0.5), (1, 0.85, 0.3, 0.3, 0.8)).tolist()
        if chance < 0.45:
            distance = canvas.ellipse(x + right * wide, y + down * high, wide * part, high * part, turn)
            strength = peak * (0.7 + 0.3 * math.cos(2 * math.pi * frame.phase)) * (1 if chance < 0.22 else -1)
            inside = canvas.ellipse(x, y, wide, high, turn) < 1
            patches.append((inside * np.clip((1 - distance) / 0.12, 0, 0.9), strength * (1.1 - distance**2)))
    return patches


def _jet(canvas: _Canvas, frame: FramePlan, jet: Jet, rng: np.random.Generator) -> tuple[Floats, Floats, Box]:
    """A plume's opacity 0..1, its velocity, turbulent enough to alias everywhere, and its tight box."""
    x, y, direction, reach = _VALVES[frame.view][jet.valve]
    down, across = canvas.along(x, y, direction + jet.swing)
    length, width = reach * (0.6 + 0.4 * jet.size), 0.06 + 0.045 * jet.size  # width: half of the plume's widest part
    part = np.clip(down / length, 0, 1)
    across = across - jet.bend * length * part**2
    outline = width * (0.4 + 0.7 * part**0.8) * np.sqrt(1 - part**4)
    inside = np.where(part > 0, outline - np.abs(across) + 0.010 * canvas.noise(rng, 2.0), np.float32(-1))
    # Threads and specks at the edge would loosen the box: they are not drawn.
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(3, round(5 * canvas.grain)),) * 2)
    mask = cv2.morphologyEx(np.uint8((inside > 0) & (canvas.window > 0)), cv2.MORPH_OPEN, brush)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    core = 1.2 * np.exp(-((across / (0.5 * width)) ** 2)) * (1 - 0.6 * part)
    turbulence = (0.5 + 0.4 * part) * canvas.noise(rng, 1.5) + 0.3 * canvas.noise(rng, 3.0)
    velocity = (-1 if math.cos(direction) > 0 else 1) * (0.35 + core) + turbulence
    opacity = np.clip(0.5 + inside / 0.008, 0, 1) * (parts == largest)
    left, top, wide, high = stats[largest, :4].tolist()
    return opacity, velocity, (left, top, wide, high)


def render(config: PhantomConfig, frame: FramePlan) -> tuple[NDArray[np.uint8], list[Box]]:
    """Draw a frame.

    Returns:
        The picture, (height, width, 3) in BGR, and for each of ``frame.jets`` the tight box of its coloured pixels.
    """
    rng = _rng(config, frame.patient, frame.clip, frame.frame)
    canvas = _Canvas(config, frame.patient)
    picture = np.repeat(255 * _tissue(canvas, frame, rng)[..., None], 3, axis=-1)
    picture[np.abs(canvas.window) < 0.004] = 90
    flows = _normal_flow(canvas, config, frame)
    jets = [_jet(canvas, frame, jet, rng) for jet in frame.jets]
    for opacity, velocity in [*flows, *(jet[:2] for jet in jets)]:
        spot = (opacity > 0) & (canvas.window > 0)
        picture[spot] += (_colour(velocity[spot]) - picture[spot]) * opacity[spot, None]
    top, bottom, left = config.height // 16, config.height // 3, config.width * 24 // 25
    scale = _colour(np.linspace(0.99, -0.99, bottom - top, dtype=np.float32))
    picture[top:bottom, left : left + max(2, config.width // 45)] = scale[:, None]
    for tick in range(1, 10):  # of depth
        picture[config.height * tick // 10, config.width - (6 if tick % 5 else 10) * config.width // 320 :] = 120
    return np.clip(picture, 0, 255).astype(np.uint8), [jet[2] for jet in jets]


def label_text(config: PhantomConfig, frame: FramePlan, boxes: list[Box]) -> str:
    """The label file: a row for each box, then, where the view is known, an empty line and the view's one-hot row."""
    rows = []
    for jet, (left, top, width, height) in zip(frame.jets, boxes, strict=True):
        x1, x2 = left / config.width, (left + width) / config.width
        y1, y2 = top / config.height, (top + height) / config.height
        corners, middle = (x1, y1, x2, y1, x2, y2, x1, y2), ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        rows.append(" ".join([str(jet.valve), *(f"{value:.6f}" for value in (corners if jet.polygon else middle))]))
    if frame.shows_view:
        rows += ["", " ".join(str(int(view == frame.view)) for view in range(len(VIEWS)))]
    return "".join(f"{row}\n" for row in rows)


def ensure(root: Path, config: PhantomConfig) -> bool:
    """Make the data set ``root/{images,labels}/{train,val,test}`` unless it is there; True if it was made.

    Raises:
        InputError: ``root`` holds another configuration, another version, or something that is no phantom.
    """
    record = {"version": VERSION, **asdict(config)}
    if _is_there(root, record):
        return False
    # Drawn beside root and renamed when complete: an interruption or a second start leaves no half of a data set.
    draft = root.parent / f".{root.name}-{uuid.uuid4().hex[:8]}"
    try:
        _write(draft, config, f"Drawing phantom for {root}")
        (draft / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        with contextlib.suppress(FileNotFoundError):  # nor is it there where another start has just done the same
            root.rmdir()  # empty; only some systems rename onto a folder
        draft.replace(root)
    except OSError:
        if draft.exists() and _is_there(root, record):
            return False  # another start was faster
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _is_there(root: Path, record: dict[str, int]) -> bool:
    """Whether ``root`` is the data set of ``record``; False where there is nothing or an empty folder."""
    try:
        try:
            text = _record_text(root)
        except FileNotFoundError:  # another start may have taken the empty folder away just then, to put its own there
            text = _record_text(root)
        if text is None:
            return False
        found = json.loads(text)
    except (OSError, ValueError):
        raise InputError(f"{root}: expected a phantom or nothing, found other files; choose another path") from None
    if found != record:
        raise InputError(f"{root}: expected the phantom {record}, found {found}; delete it or choose another path")
    return True


def _record_text(root: Path) -> str | None:
    """What the record in ``root`` says; None where there is nothing or an empty folder."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    return (root / RECORD).read_text()


def _write(root: Path, config: PhantomConfig, title: str) -> None:
    frames = plan(config)
    for folder in (f"{kind}/{split}" for kind in ("images", "labels") for split in ("train", "val", "test")):
        (root / folder).mkdir(parents=True)

    def write_frame(frame: FramePlan) -> None:
        picture, boxes = render(config, frame)
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        (root / "images" / frame.split / f"{frame.name}.jpg").write_bytes(coded.tobytes())
        (root / "labels" / frame.split / f"{frame.name}.txt").write_text(label_text(config, frame, boxes))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            list(progress(pool.map(write_frame, frames), title, len(frames), "frame"))
        except BaseException:  # Ctrl-C included: without this the pool would draw all the rest first
            pool.shutdown(cancel_futures=True)
            raise
