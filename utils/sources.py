"""Where detect.py's frames come from: images, videos, folders, globs, lists, cameras and streams, all as RGB frames."""

from __future__ import annotations

import glob
import itertools
import math
import queue
import re
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import IMAGE_SUFFIXES, MOST_PIXELS, error_text, read_bytes, read_image
from utils.log import LOGGER, InputError, printable

VIDEO_SUFFIXES = frozenset(["asf", "avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "wmv", "webm"])
STREAM_PREFIXES = ("rtsp://", "rtmp://", "http://", "https://", "tcp://")
FRAMES_AHEAD = 4  # enough to overlap decoding with the network, and only 100 MB even for 4K frames
DECODERS = 4  # stills that are decoded at once: a GPU's network would wait for one decoder
MAX_LIST_BYTES = 50_000_000  # a million paths
TOLERATED_SHORTFALL = 5  # containers often promise a few frames more than they hold
_LOOKED_FOR = f"images ({' '.join(sorted(IMAGE_SUFFIXES))}) or videos ({' '.join(sorted(VIDEO_SUFFIXES))})"

T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """One decoded picture and where it came from; the last three are None for a still image."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    path: Path  # the file; else a name: camera0, or a stream's address reduced to [A-Za-z0-9_-], without password
    number: int | None  # position among all frames of the video or stream, from 0, whatever the stride
    total: int | None  # frames that the video's header promises, not always truly; None where it does not say
    fps: float | None  # frames per second; None where unknown


@dataclass
class Source:
    """An iterable of :class:`Frame`; made by :func:`open_source`.

    Of several files, one that cannot be read is skipped with a warning and its reason in ``failures``, which holds it
    before the next file's first frame comes, and all of them once the iteration has ended. Files are decoded ``ahead``
    frames ahead in a thread, of stills several at once in threads of their own; all end with the iteration, also when
    the consumer closes it early.

    Raises:
        InputError: during iteration, when a source that is one file, camera or stream cannot be read, or when none of
            several files gave a frame.
    """

    name: str
    vid_stride: int
    files: list[Path] = field(default_factory=list)
    several: bool = False  # whether a file that cannot be read may be skipped
    address: int | str | None = None  # of a camera or stream
    failures: dict[Path, str] = field(default_factory=dict)
    share: bool = False  # whether others read other files of the same source: to find no frame is then no error
    ahead: int = FRAMES_AHEAD  # who takes several frames at once wants at least as many

    @property
    def live(self) -> bool:
        """Whether frames come from a camera or a stream."""
        return self.address is not None

    @property
    def problems(self) -> list[str]:
        """A line a file that could not be read."""
        return list(self.failures.values())

    @cached_property
    def total(self) -> int | None:
        """Frames an iteration gives if every file is sound and its header true; None if live or unknown."""
        total = 0
        for path in self.files:
            count = _promised_frames(path) if _suffix(path) in VIDEO_SUFFIXES else 1
            if count is None:
                return None
            total += math.ceil(count / self.vid_stride)
        return None if self.live else total

    def __iter__(self) -> Generator[Frame, None, None]:
        # A live source is read when asked: decoding ahead would only make its frames older.
        return self._live_frames() if self.live else prefetch(self._file_frames(), self.ahead)

    def _file_frames(self) -> Iterator[Frame]:
        self.failures.clear()
        found = False
        with closing(_stills_ahead(self.files, self.vid_stride)) as files:
            for path, frames in files:
                try:
                    for frame in frames:
                        found = True
                        yield frame
                except InputError as error:
                    if not self.several:
                        raise
                    if path not in self.failures:
                        self.failures[path] = str(error)
                        LOGGER.warning("skipped %s", error)
        if not found and not self.share:
            raise InputError(f"{self.name}: none of its {len(self.files)} files can be read; first {self.problems[0]}")

    def _live_frames(self) -> Generator[Frame, None, None]:
        assert self.address is not None
        path = Path(re.sub(r"[^A-Za-z0-9_-]+", "_", self.name)[:100])
        with _capture(self.address, self.name) as capture:
            if not capture.isOpened():
                number_or_path = isinstance(self.address, int) and Path(str(self.address)).exists()
                hint = f"; for the file or folder of that name give ./{self.address}" if number_or_path else ""
                raise InputError(f"{self.name}: a camera or stream that can be opened expected, none answers{hint}")
            yield from _captured_frames(capture, path, self.name, self.vid_stride)
        LOGGER.warning("%s: no further frame comes, stopped reading", self.name)


def open_source(source: str, vid_stride: int = 1, flag: str = "--source") -> Source:
    """Find what ``source`` means: a file, a folder, a glob, a .txt list of paths, a camera number, a stream address.

    Only names are looked up here; files are decoded, and cameras and streams opened, when the result is iterated. A
    folder is not searched recursively (a glob with ``**`` is), and hidden files are left out. Folders and globs are
    sorted by name with numbers in their natural order. In a list, relative lines start at the list's own folder.

    Args:
        vid_stride: of a video, camera or stream the first frame and every ``vid_stride``-th after it are taken.
        flag: named in errors.

    Raises:
        InputError: nothing is there, its suffix is none of those read, or it holds nothing to read.
    """
    if vid_stride < 1:
        raise InputError(f"--vid-stride: a whole number of at least 1 expected, {vid_stride} came")
    if source.isascii() and source.isdigit():
        return Source(f"camera{int(source)}", vid_stride, address=int(source))
    if source.lower().startswith(STREAM_PREFIXES):
        return Source(re.sub(r"//[^/]*@", "//", source), vid_stride, address=source)  # the name shows no password
    path = Path(source)
    if not source or not (path.exists() or any(sign in source for sign in "*?[")):
        kinds = f"glob, .txt list, camera number or address ({' '.join(STREAM_PREFIXES)})"
        raise InputError(f"{flag}: an existing file or folder, {kinds} expected, {source!r} came")
    if not path.exists():
        found = _matching(path)
        return Source(source, vid_stride, _supported(map(Path, found), source), several=True)
    if path.is_dir():
        shown = (entry for entry in path.iterdir() if not entry.name.startswith("."))
        return Source(source, vid_stride, _supported(shown, source), several=True)
    if _suffix(path) == "txt":
        return Source(source, vid_stride, _read_list(path), several=True)
    if _suffix(path) not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise _unsupported(path)
    return Source(source, vid_stride, [path])


def prefetch(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Yield ``items`` in order while a thread takes up to ``depth`` of them ahead of the consumer.

    What ``items`` raises is raised here, after the items before it. The thread starts with the first item asked for
    and has ended, with ``items`` closed, once this generator is exhausted or closed.
    """
    ready: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    slots = threading.Semaphore(depth)
    stop = threading.Event()

    def work() -> None:
        end: BaseException | None = None
        try:
            while slots.acquire() and not stop.is_set():
                ready.put((next(items),))
        except StopIteration:
            pass
        except BaseException as error:
            end = error
        finally:
            ready.put(end)
            getattr(items, "close", lambda: None)()

    worker = threading.Thread(target=work, name="prefetch", daemon=True)
    worker.start()
    try:
        while isinstance(item := ready.get(), tuple):
            slots.release()
            yield item[0]
        if item is not None:
            raise item
    finally:
        stop.set()
        slots.release()  # wakes a worker that waits for room
        worker.join()


def _matching(pattern: Path) -> list[str]:
    """What a glob finds; the folders that it begins with are taken by their names, also where one is ``old [1]``."""
    folder = pattern
    rest: list[str] = []
    while not folder.exists():
        folder, rest = folder.parent, [folder.name, *rest]
    # not Path.glob, which takes no absolute pattern
    return glob.glob(str(Path(glob.escape(str(folder)), *rest)), recursive=True)  # noqa: PTH207


def is_video(path: Path) -> bool:
    """Whether a file's frames are numbered, by its suffix."""
    return _suffix(path) in VIDEO_SUFFIXES


def _suffix(path: Path) -> str:
    return path.suffix[1:].lower()


def _unsupported(path: Path) -> InputError:
    name, suffix = printable(str(path), 300), printable(path.suffix)
    return InputError(f"{name}: {_LOOKED_FOR} expected, or a list (txt), suffix {suffix!r} came")


def _supported(paths: Iterable[Path], source: str) -> list[Path]:
    """The images and videos of ``paths`` by name, frame2 before frame10."""
    files = [path for path in paths if _suffix(path) in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not path.is_dir()]
    if not files:
        raise InputError(f"{source}: {_LOOKED_FOR} expected, none is there")
    pieces = {path: re.split(r"(\d+)", str(path)) for path in files}  # text and digits take turns
    return sorted(files, key=lambda path: ([int(p) if p.isdecimal() else p for p in pieces[path]], str(path)))


def _read_list(path: Path) -> list[Path]:
    size = path.stat().st_size
    if not path.is_file() or size > MAX_LIST_BYTES:
        raise InputError(f"{path}: a list under {MAX_LIST_BYTES:,} bytes expected, {size:,} came")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a list of paths in UTF-8 expected, other bytes came") from error
    files = [path.parent / line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not files:
        raise InputError(f"{path}: a list with a path on each line expected, no path came")
    different = list(dict.fromkeys(files))
    if repeated := len(files) - len(different):
        LOGGER.warning("%s: %d of %d entries repeat an earlier one and are left out", path, repeated, len(files))
    return different


def _stills_ahead(files: Iterable[Path], vid_stride: int) -> Generator[tuple[Path, Iterator[Frame]], None, None]:
    """Each file with its frames, in order; of stills up to :data:`DECODERS` are decoded at once, before their turn."""
    waiting: deque[tuple[Path, Future[Frame] | None]] = deque()

    def first() -> tuple[Path, Iterator[Frame]]:
        path, still = waiting.popleft()
        return path, _decode(path, vid_stride) if still is None else _result(still)

    pool = ThreadPoolExecutor(DECODERS, "decode")
    try:
        for path in files:
            waiting.append((path, pool.submit(_still, path) if _suffix(path) in IMAGE_SUFFIXES else None))
            if len(waiting) == DECODERS:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


def _result(still: Future[Frame]) -> Iterator[Frame]:
    yield still.result()


def _still(path: Path) -> Frame:
    return Frame(read_image(path), path, None, None, None)


def _decode(path: Path, vid_stride: int) -> Iterator[Frame]:
    if _suffix(path) in IMAGE_SUFFIXES:
        yield _still(path)
    elif _suffix(path) in VIDEO_SUFFIXES:
        head = _beginning(path)
        with _capture(path, str(path)) as capture:
            if not capture.isOpened():
                raise InputError(f"{path}: is not a video that OpenCV can decode (first bytes {head!r})")
            yield from _captured_frames(capture, path, str(path), vid_stride)
    else:
        raise _unsupported(path)


@contextmanager
def _capture(address: Path | int | str, name: str) -> Iterator[cv2.VideoCapture]:
    capture = None
    try:  # absolute, so that a file named like an address ("tcp:x.avi") stays a file
        capture = cv2.VideoCapture(str(address.absolute()) if isinstance(address, Path) else address)
        yield capture
    except cv2.error as error:  # also a camera number past 32 bits
        raise InputError(f"{name}: frames expected, OpenCV refuses: {error_text(error)}") from error
    finally:
        if capture is not None:
            capture.release()


def _captured_frames(capture: cv2.VideoCapture, path: Path, name: str, vid_stride: int) -> Iterator[Frame]:
    """Frames until one cannot be read; what the header promises is passed on and compared, never relied on."""
    width, height = (capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MOST_PIXELS:  # its header says so, before a frame is decoded
        raise InputError(f"{name}: frames of at most {MOST_PIXELS:,} pixels expected, {width:.0f} x {height:.0f} came")
    total = _frame_count(capture)
    rate = capture.get(cv2.CAP_PROP_FPS)
    fps = rate if 0 < rate < math.inf else None
    decoded = False
    for number in itertools.count():
        if not capture.grab():
            break
        if number % vid_stride:
            continue
        whole, image = capture.retrieve()
        if whole:  # else one damaged frame, which need not end the video
            decoded = True
            yield Frame(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), path, number, total, fps)
    if not decoded:
        raise InputError(f"{name}: a video without frames")
    if total is not None and number < total - TOLERATED_SHORTFALL:
        LOGGER.warning("%s: ends after %d frames, its header promises %d", name, number, total)


def _frame_count(capture: cv2.VideoCapture) -> int | None:
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 1e9 else None


def _beginning(path: Path) -> bytes:
    """The first bytes of a video's file, which holds frames; a playlist in its place would have other files opened."""
    head = read_bytes(path, 8)
    if head.lstrip(b"\xef\xbb\xbf").startswith((b"#EXTM3U", b"ffconca", b"v=0", b"<?xml", b"[playli")):
        raise InputError(f"{path}: a video expected, a list of other files or addresses came (first bytes {head!r})")
    return head


def _promised_frames(path: Path) -> int | None:
    try:
        _beginning(path)
    except InputError:  # told when it is to be decoded
        return 0
    with _capture(path, str(path)) as capture:
        return _frame_count(capture) if capture.isOpened() else 0
