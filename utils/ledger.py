"""What is finished of a detection, kept beside its results, so that a later start, or another process, goes on there.

In ``RUN/.progress`` lie the settings of the first start, the plan (each file's number and name, which no later start
changes), a marker for each finished file, another for each that could not be read, and csv rows of videos. Processes
never wait for each other: what two might do at once is a rename of which one wins, or is done twice with one result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files import sync_disk, write_text
from utils.log import InputError, printable
from utils.output_names import OutputNames
from utils.outputs import UniqueNames
from utils.processes import Processes
from utils.source_files import is_video

PROGRESS = ".progress"
FOLDERS = ("finished", "skipped", "rows", "clips", "drafts", "told")  # in it
OLD = 3600  # seconds
SHARE_OF_TIME = 0.05  # that waiting for the disk may take; markers wait for as long as that asks


@dataclass(frozen=True)
class Entry:
    """A file of the plan: its number, its absolute path, and what its outputs are called."""

    index: int
    path: Path
    name: str

    @property
    def video(self) -> bool:
        """Whether its frames are numbered."""
        return is_video(self.path)


class Ledger:
    """The plan and the markers of the run in ``folder``; see the module.

    Raises:
        InputError: on opening, where the run was started with other settings, or the folder is not a detection's.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], into_existing: bool = False, naming: OutputNames | None = None
    ) -> None:
        """Open the run's ledger, or begin it.

        Args:
            folder: of the run; it need not exist.
            settings: whatever the results depend on, as plain data.
            into_existing: begin also in a folder that holds files of something else.
            naming: of the files' outputs; after the files themselves, unless given.
        """
        self.folder, self.place, self.naming = folder, folder / PROGRESS, naming or OutputNames()
        self.names = UniqueNames()
        self.entries: list[Entry] = []
        self._by_path: dict[Path, Entry] = {}
        self._handed_out: set[int] = set()
        self._waiting: list[tuple[Path, dict[str, Any]]] = []
        self._flushed, self._cost = 0.0, 0.0
        plain = json.loads(json.dumps(settings))
        if not self.place.is_dir():
            self._begin(plain, into_existing)
        self._check(plain)
        self._read_plan()

    def add(self, files: Iterable[Path]) -> None:
        """Put files that are not in the plan at its end, in the order given, each once."""
        listed = list(dict.fromkeys(absolute(path) for path in files))
        while missing := [path for path in listed if path not in self._by_path]:
            stems = self.naming.stems(missing, self._by_path)
            part = [
                [str(path), self.names(path, is_video(path), stem)] for path, stem in zip(missing, stems, strict=True)
            ]
            self._publish(self._plan(self._parts), {"files.json": part})
            self._read_plan()  # another process's part, if that was faster

    def entry(self, path: Path) -> Entry:
        """A file's place in the plan."""
        return self._by_path[absolute(path)]

    def todo(self, processes: Processes) -> list[Path]:
        """This process's share of what is not finished, each file once a start; also of what could not be read."""
        self._read_plan()  # another process may have listed more files
        finished = self.finished()
        kinds = ([e for e in self.entries if not e.video], [e for e in self.entries if e.video])
        mine = sorted(entry.index for kind in kinds for entry in processes.share(kind))  # of the long ones as many each
        due = [index for index in mine if index not in finished and index not in self._handed_out]
        self._handed_out.update(due)
        return [self.entries[index].path for index in due]

    def finished(self) -> set[int]:
        """Numbers of the files that are finished."""
        return _numbers(self.place / "finished")

    def skipped(self) -> set[int]:
        """Numbers of the files that could not be read, or not to their end."""
        return _numbers(self.place / "skipped") - self.finished()

    def record(self, entry: Entry, frames: int, boxes: int, rows: str | None, failure: str | None = None) -> None:
        """Mark a file as finished, soon: once all that was written before is on the disk.

        Args:
            rows: of predictions.csv; None where there are none, or where they lie at :meth:`rows_file`.
            failure: why it could not be read, or not to its end, as it may be written: then it is marked as skipped.
        """
        marker = self.place / ("finished" if failure is None else "skipped") / f"{entry.index:07}.json"
        facts = {"file": str(entry.path), "frames": frames, "boxes": boxes, "rows": rows, "failure": failure}
        self._waiting.append((marker, facts))
        if (time.monotonic() - self._flushed) * SHARE_OF_TIME > self._cost:
            self.flush()

    def flush(self) -> None:
        """Write the markers that wait."""
        if not self._waiting:
            return
        start = time.monotonic()
        sync_disk(self.folder)
        for marker, facts in self._waiting:
            draft = self.draft(".json")  # no flush of its own: lost or empty after a power cut, it says "not finished"
            draft.write_text(json.dumps(facts), encoding="utf-8")
            draft.replace(marker)
        self._waiting.clear()
        self._flushed = time.monotonic()
        self._cost = self._flushed - start

    @property
    def clips(self) -> Path:
        """Where what was found is kept until it is reported clip by clip."""
        return self.place / "clips"

    def rows_file(self, entry: Entry) -> Path:
        """Where a video's rows of predictions.csv lie, also those of an unfinished one."""
        return self.place / "rows" / f"{entry.index:07}.csv"

    def draft(self, suffix: str) -> Path:
        """A new file's path, on the same file system as the results, to be renamed when it is whole."""
        handle, name = tempfile.mkstemp(suffix, dir=self.place / "drafts")
        os.close(handle)
        os.chmod(name, 0o644)  # noqa: PTH101  (mkstemp's are for the owner alone)
        return Path(name)

    def facts(self) -> Iterator[tuple[Entry, dict[str, Any] | None]]:
        """Each file of the plan, in order, with its marker's facts, None where it has none."""
        for entry in self.entries:
            found = (_read(self.place / kind / f"{entry.index:07}.json") for kind in ("finished", "skipped"))
            yield entry, next((facts for facts in found if facts is not None), None)

    def first(self, key: str) -> bool:
        """Whether no other process has asked this with the same key."""
        try:
            (self.place / "told" / hashlib.sha256(key.encode()).hexdigest()[:24]).mkdir()
        except FileExistsError:
            return False
        return True

    def clear_drafts(self) -> None:
        """Remove what killed starts left; nobody has been at a draft of that age for long."""
        for draft in (self.place / "drafts").iterdir():
            with contextlib.suppress(OSError):
                if time.time() - draft.stat().st_mtime > OLD:
                    draft.unlink()

    def _begin(self, settings: Any, into_existing: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        strange = [path for path in self.folder.iterdir() if not path.name.startswith(PROGRESS)]
        if strange and not into_existing and not self.place.is_dir():  # asked anew: another process may have begun it
            raise InputError(
                f"{self.folder}: expected a detection that was cut off, got a folder with other files, or one that is "
                "finished; --name takes a new folder, --exist-ok this one as it is"
            )
        self._publish(self.place, {"settings.json": settings}, FOLDERS)

    def _publish(self, target: Path, files: Mapping[str, Any], folders: Iterable[str] = ()) -> None:
        """Make a folder with files in it, at once; if another process has made it meanwhile, theirs stays."""
        draft = Path(tempfile.mkdtemp(prefix=f"{PROGRESS}-", dir=self.folder))
        draft.chmod(0o755)
        for name in folders:
            (draft / name).mkdir()
        for name, content in files.items():
            write_text(draft / name, json.dumps(content) + "\n")  # in ASCII: names need not be UTF-8
        try:
            draft.rename(target)
        except OSError:
            shutil.rmtree(draft)
            if not target.is_dir():
                raise

    def _check(self, settings: Any) -> None:
        before = _read(self.place / "settings.json") or {}
        for name in {**before, **settings}:
            if before.get(name) != settings.get(name):
                raise InputError(
                    f"{self.folder}: {name}: expected {_short(before.get(name))}, as it was begun with, "
                    f"got {_short(settings.get(name))}; --name takes a new folder"
                )

    def _plan(self, part: int) -> Path:
        return self.place / f"plan-{part:04}"

    def _read_plan(self) -> None:
        self._parts = 0
        self.entries.clear()
        self.names = UniqueNames()
        while (part := self._plan(self._parts)).is_dir():
            for path, name in json.loads((part / "files.json").read_text(encoding="utf-8")):
                self.entries.append(Entry(len(self.entries), Path(path), name))
                self.names.give(Path(path), name, self.entries[-1].video)
            self._parts += 1
        self._by_path = {entry.path: entry for entry in self.entries}


def forget(folder: Path) -> None:
    """Remove what the ledger of a run keeps; the results stay."""
    for place in folder.glob(f"{PROGRESS}*"):
        shutil.rmtree(place, ignore_errors=True)


def absolute(path: Path) -> Path:
    """A path that is the same from every working folder; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100  (Path.absolute keeps "..")


def _numbers(folder: Path) -> set[int]:
    with os.scandir(folder) as found:
        return {int(marker.name[:-5]) for marker in found if marker.stat().st_size}


def _read(path: Path) -> dict[str, Any] | None:
    """A json file's mapping; None where there is none, or a power cut has left none of its content."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _short(value: object) -> str:
    return printable(json.dumps(value, ensure_ascii=False))
