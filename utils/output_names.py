"""What the outputs of a file are called: after the file, or, so that nobody is named, after a keyed hash."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils import dicom
from utils.identifiers import Identifiers
from utils.log import InputError, printable
from utils.source_files import LONGEST_PATH, clip_name, is_dicom, is_video, places

KEY_FILE = "identifiers.key"  # in the folder of the runs
SHORT_NUMBER = re.compile(r"\d{1,4}")  # a file that is called 9 is not meant where 9 frames are


@dataclass(frozen=True)
class OutputNames:
    """Names by the rules of a run.

    Attributes:
        identifiers: hashes names; None where files keep theirs.
        root: folder of the source, from which files are named.
        all_files: whether every file's name may say whose it is, and not only those of DICOM files.
    """

    identifiers: Identifiers | None = None
    root: Path = Path()
    all_files: bool = False

    @property
    def hidden(self) -> bool:
        """Whether some files' own names are not to be written."""
        return self.identifiers is not None and not self.identifiers.keep

    def hides(self, path: Path) -> bool:
        """Whether a file's own name is not to be written."""
        return self.hidden and (self.all_files or is_dicom(path))

    def stems(self, paths: Sequence[Path], known: Iterable[Path] = ()) -> list[str]:
        """What files' outputs are called if no other's are; ``known`` are called already."""
        where = places([*known, *paths]) if self.hidden else {}
        return [self.stem(path, where.get(path, 0)) for path in paths]

    def stem(self, path: Path, place: int = 0) -> str:
        """What a file's outputs are called if no other's are.

        Args:
            place: of a frame in its clip. A hidden name says no more of it: what looks like a frame's number may be a
                date or a patient's, and letters before it a name.
        """
        if self.identifiers is None or not self.hides(path):
            return path.stem
        if is_dicom(path):
            try:
                return self.identifiers.name("clip", dicom.read_header(path).instance or self._relative(path))
            except InputError:  # told when its frames are asked for
                return self.identifiers.name("file", self._relative(path))
        clip = None if is_video(path) else clip_name(path)
        if clip is None:
            return self.identifiers.name("clip", self._relative(path))
        return f"{self.identifiers.name('clip', self._relative(clip[0] / clip[1]))}-{place}"

    def clip(self, path: Path, stem: str) -> str:
        """What the clip of a file is called whose outputs are called ``stem``: of a folder's frames all alike."""
        clip = None if is_video(path) else clip_name(path)
        if self.identifiers is None:
            return stem if clip is None else clip[1]
        if not self.hides(path):
            return self.identifiers.name("clip", stem if clip is None else clip[1])
        return stem if clip is None else self.identifiers.name("clip", self._relative(clip[0] / clip[1]))

    def study(self, value: str) -> str:
        """What a study is called, by its UID or its folder."""
        return value if self.identifiers is None else self.identifiers.name("study", value)

    def folder(self, path: Path) -> str:
        """The folder of a file, from the source's."""
        return self._relative(path.parent) if path.parent != self.root else self.root.name

    def file(self, path: Path, stem: str) -> str:
        """What a file itself is called in tables."""
        return stem if self.hides(path) else path.name

    def without(self, text: str, path: Path, stem: str) -> str:
        """A message about a file, its name and its folders' replaced where they are hidden.

        Args:
            path: as the message has it: one that is relative says other folders than the absolute one.
        """
        if not self.hides(path):
            return text
        for written in (str(path), printable(str(path), LONGEST_PATH)):
            if text.startswith(f"{written}: "):  # as all messages about files do
                text = stem + text.removeprefix(written)
        said = [re.escape(written) for written in (str(path), path.name) if not SHORT_NUMBER.fullmatch(written)]
        return re.sub(rf"(?<!\w)({'|'.join(said)})(?!\w)", stem, text) if said else text

    def _relative(self, path: Path) -> str:
        """The same wherever the source lies."""
        return Path(os.path.relpath(path, self.root)).as_posix()
