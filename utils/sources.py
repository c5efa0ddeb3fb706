"""Where detect.py's frames come from: images, videos, DICOM, folders, globs, lists, cameras, streams; all as RGB."""

from __future__ import annotations

import math
import queue
import re
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from utils import dicom
from utils.images import IMAGE_SUFFIXES, read_image
from utils.letterbox import Image
from utils.log import LOGGER, InputError
from utils.regions import Area, of_sector, unknown
from utils.source_files import files_of, is_dicom, suffix_of, unsupported
from utils.videos import VIDEO_SUFFIXES, VideoFrame, capture, captured_frames, promised_frames, read_video

STREAM_PREFIXES = ("rtsp://", "rtmp://", "http://", "https://", "tcp://")
FRAMES_AHEAD = 4  # enough to overlap decoding with the network, and only 100 MB even for 4K frames
DECODERS = 4  # stills that are decoded at once: a GPU's network would wait for one decoder
_SECRET = re.compile(r"((?:user|usr|login|pass|pwd|token|auth|key|secret|sig)\w*)=[^&/;]*", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded picture and where it came from; ``number``, ``total`` and ``fps`` are None for a still image.

    Attributes:
        image: (H, W, 3) RGB.
        path: the file; else a name: camera0, or a stream's address reduced to [A-Za-z0-9_-], without password.
        number: position among all frames of the video or stream, from 0, whatever the stride.
        total: frames that the file's header promises, not always truly; None where it does not say.
        fps: frames per second; None where unknown.
        time: seconds from the file's first frame; None where unknown.
        area: where the ultrasound is in it; None where that was not asked.
    """

    image: Image
    path: Path
    number: int | None = None
    total: int | None = None
    fps: float | None = None
    time: float | None = None
    area: Area | None = None

    @property
    def seen(self) -> Image:
        """What the network sees of it, not a copy."""
        return self.image if self.area is None else self.area.crop(self.image)


@dataclass
class Source:
    """An iterable of :class:`Frame`; made by :func:`open_source`.

    Of several files, one that cannot be read is skipped with a warning and its reason in ``failures``, which holds it
    before the next file's first frame comes, and all of them once the iteration has ended; so it is with a study's only
    file, if frames of it could be read. Files are decoded ``ahead`` frames ahead in a thread, of stills several at once
    in threads of their own; all end with the iteration, also when the consumer closes it early.

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
    study: bool = False  # whether the sector is looked for where a file does not say what of its frames is ultrasound
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
            count = _promised(path)
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
                    for frame in self._placed(frames):
                        found = True
                        yield frame
                except InputError as error:
                    if not (self.several or (self.study and found)):
                        raise
                    if path not in self.failures:
                        self.failures[path] = str(error)
                        LOGGER.warning("skipped %s", error)
        if not found and not self.share:
            raise InputError(f"{self.name}: none of its {len(self.files)} files can be read; first {self.problems[0]}")

    def _placed(self, frames: Iterator[Frame]) -> Generator[Frame, None, None]:
        """A file's frames with their area, if it is asked for: the first sector of a video, which moves no more.

        Of stills each has its own, as who reads one of a clip may have read no other.
        """
        area: Area | None = None
        for frame in frames:
            if not self.study or frame.area is not None:
                yield frame
                continue
            area = _sector(frame.image, area)
            yield replace(frame, area=area or unknown(frame.image))

    def _live_frames(self) -> Generator[Frame, None, None]:
        assert self.address is not None
        path = Path(re.sub(r"[^A-Za-z0-9_-]+", "_", self.name)[:100])
        with capture(self.address, self.name) as opened:
            if not opened.isOpened():
                number_or_path = isinstance(self.address, int) and Path(str(self.address)).exists()
                hint = f"; for the file or folder of that name give ./{self.address}" if number_or_path else ""
                raise InputError(f"{self.name}: a camera or stream that can be opened expected, none answers{hint}")
            for frame in captured_frames(opened, self.name, self.vid_stride):
                yield _of_video(frame, path)
        LOGGER.warning("%s: no further frame comes, stopped reading", self.name)


def open_source(source: str, vid_stride: int = 1, flag: str = "--source", study: bool = False) -> Source:
    """Find what ``source`` means: a file, a folder, a glob, a .txt list of paths, a camera number, a stream address.

    Only names, and the headers of DICOM files, are looked up here; files are decoded, and cameras and streams opened,
    when the result is iterated. Hidden files are left out. Folders and globs come in order: DICOM files as they were
    acquired, then the others by name with numbers in their natural order. In a list, relative lines start at the
    list's own folder.

    Args:
        vid_stride: of a video, camera or stream the first frame and every ``vid_stride``-th after it are taken.
        flag: named in errors.
        study: a folder is searched with all folders in it (else a glob with ``**`` is), and where a file does not say
            what of its frames is ultrasound, the sector is looked for.

    Raises:
        InputError: nothing is there, its suffix is none of those read, or it holds nothing to read.
    """
    if vid_stride < 1:
        raise InputError(f"--vid-stride: a whole number of at least 1 expected, {vid_stride} came")
    if source.isascii() and source.isdigit():
        return Source(f"camera{int(source)}", vid_stride, address=int(source))
    if source.lower().startswith(STREAM_PREFIXES):
        return Source(without_password(source), vid_stride, address=source)
    path = Path(source)
    if not source or not (path.exists() or any(sign in source for sign in "*?[")):
        kinds = f"glob, .txt list, camera number or address ({' '.join(STREAM_PREFIXES)})"
        raise InputError(f"{flag}: an existing file or folder, {kinds} expected, {source!r} came")
    several = not path.is_file() or suffix_of(path) == "txt"
    return Source(source, vid_stride, files_of(source, study), several, study=study)


def without_password(address: str) -> str:
    """A stream's address as it is shown: without what stands before an @ or, as many cameras have it, in the query."""
    scheme, _, rest = address.partition("//")
    return _SECRET.sub(r"\1=", f"{scheme}//{rest.rpartition('@')[2]}")


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


def frame_of(path: Path, number: int | None, study: bool = False, stride: int = 1) -> Frame:
    """One frame of a file, decoded anew: number None of a still.

    Args:
        study, stride: of the source that it came from; its area depends on them.

    Raises:
        InputError: it is no longer there.
    """
    source = Source(str(path), stride, [path], study=study)
    with closing(source._placed(_decode(path, stride))) as frames:
        for frame in frames:
            if (frame.number or 0) == (number or 0):
                return frame
    raise InputError(f"{path}: a frame {number} expected, none came")


def _stills_ahead(files: Iterable[Path], vid_stride: int) -> Generator[tuple[Path, Iterator[Frame]], None, None]:
    """Each file with its frames, in order; of stills up to :data:`DECODERS` are decoded at once, before their turn."""
    waiting: deque[tuple[Path, Future[Frame] | None]] = deque()

    def first() -> tuple[Path, Iterator[Frame]]:
        path, still = waiting.popleft()
        return path, _decode(path, vid_stride) if still is None else _result(still)

    pool = ThreadPoolExecutor(DECODERS, "decode")
    try:
        for path in files:
            waiting.append((path, pool.submit(_still, path) if suffix_of(path) in IMAGE_SUFFIXES else None))
            if len(waiting) == DECODERS:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


def _result(still: Future[Frame]) -> Iterator[Frame]:
    yield still.result()


def _still(path: Path) -> Frame:
    return Frame(read_image(path), path)


def _of_video(frame: VideoFrame, path: Path) -> Frame:
    time = None if frame.fps is None else frame.number / frame.fps
    return Frame(frame.image, path, frame.number, frame.total, frame.fps, time)


def _decode(path: Path, vid_stride: int) -> Iterator[Frame]:
    if suffix_of(path) in IMAGE_SUFFIXES:
        yield _still(path)
    elif suffix_of(path) in VIDEO_SUFFIXES:
        for frame in read_video(path, vid_stride):
            yield _of_video(frame, path)
    elif is_dicom(path):
        yield from _dicom_frames(path, vid_stride)
    else:
        raise unsupported(path)


def _dicom_frames(path: Path, vid_stride: int) -> Iterator[Frame]:
    header = dicom.read_header(path)
    area, several = header.area, header.frames > 1
    for number, image in dicom.read_frames(header, vid_stride):
        area = _sector(image, area)
        time = header.times[number] if number < len(header.times) else None
        frame = Frame(image, path, time=time, area=area or unknown(image))
        yield replace(frame, number=number, total=header.frames, fps=header.fps) if several else frame


def _sector(image: Image, known: Area | None) -> Area | None:
    """A clip's area: the one that is known of it, else, if there is one, that of this frame."""
    return known if known is not None and known.shown.shape == image.shape[:2] else of_sector(image)


def _promised(path: Path) -> int | None:
    """Frames that a file's header promises, not always truly; None where it does not say."""
    if suffix_of(path) in VIDEO_SUFFIXES:
        return promised_frames(path)
    if suffix_of(path) in IMAGE_SUFFIXES:
        return 1
    try:
        return dicom.read_header(path).frames
    except InputError:
        return 0
