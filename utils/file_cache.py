"""Facts about files (the rows of a label file, the hash of a frame) kept between starts, and the folder they lie in.

A table of facts is one json file behind a checksum, no pickle. A fact is found again by its file's path, size and time;
it is of a known kind, computed by known code. What cannot be read or written is computed again, and nothing is said.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from utils.files import write_whole
from utils.log import LOGGER

Fact = TypeVar("Fact")

# A file that was written twice within the tick of its file system's clock (2 s on FAT) may have one time for two
# contents: what changed less than this before it was looked at is not kept.
SETTLED_NS = 3_000_000_000
UNUSED_DAYS = 30
MOST_BYTES = 20_000_000_000
OURS = re.compile(r"[0-9a-f]{24}(\.json)?|draft-.+|\.[0-9a-f]{24}\.json-.+")  # the last two: left by a killed start


class State(NamedTuple):
    """What tells a file's content from an earlier one.

    Attributes:
        size: bytes.
        changed_ns: time of its last change.
        settled: whether that was long enough ago for any later change to show.
    """

    size: int
    changed_ns: int
    settled: bool


def file_states(paths: Iterable[Path]) -> list[State | None]:
    """The state of each file, None where it cannot be told; to be taken before the file is read."""
    before = time.time_ns() - SETTLED_NS
    return [_state(path, before) for path in paths]


def _state(path: Path, before: int) -> State | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a path that no system knows, such as one with a null byte
        return None
    return State(found.st_size, found.st_mtime_ns, found.st_mtime_ns < before)


class Kind(NamedTuple):
    """A kind of fact.

    Attributes:
        name: with all settings that the fact depends on beside its file.
        code: modules that compute it: facts of other code are not found.
    """

    name: str
    code: tuple[ModuleType, ...]


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Keep Python's search for cycles out of work that makes many objects and no cycles.

    It would look at all of torch's objects again and again: a fifth of the time that opening a large dataset takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@collection_paused()
def remembered(
    folder: Path,
    kind: Kind,
    paths: Sequence[Path],
    states: Sequence[State | None],
    compute: Callable[[list[int]], Iterable[Fact]],
    encode: Callable[[Fact], Any],
    decode: Callable[[Path, Any], Fact],
) -> list[Fact]:
    """The fact of each file: from the table where it is known, computed and kept where it is not.

    Args:
        folder: of the tables.
        kind: of the facts.
        paths: of the files, absolute.
        states: of the files, taken before their content was read.
        compute: facts of the files at these places, in their order.
        encode: a fact as plain values for json; None keeps it out of the table.
        decode: the fact again, of a file and what ``encode`` gave; ValueError or TypeError where that cannot be.
    """
    names = [str(path) for path in paths]
    place = _table_path(folder, kind, names)
    table = {} if place is None else _read(place)
    facts: dict[int, Fact] = {}
    for index, (name, state) in enumerate(zip(names, states, strict=True)):
        row = table.get(name)
        if row is not None and state is not None and row[:2] == [state.size, state.changed_ns]:
            try:
                facts[index] = decode(paths[index], row[2])
            except (ValueError, TypeError):
                continue
    missing = [index for index in range(len(names)) if index not in facts]
    if missing:
        fresh: dict[str, list[Any]] = {}
        for index, fact in zip(missing, compute(missing), strict=True):
            facts[index] = fact
            state, value = states[index], encode(fact)
            if state is not None and state.settled and value is not None:
                fresh[names[index]] = [state.size, state.changed_ns, value]
        if fresh and place is not None:
            asked = set(names)
            others = {name: row for name, row in table.items() if name in asked or Path(name).exists()}
            _write(place, others | fresh)
    return [facts[index] for index in range(len(names))]


def _table_path(folder: Path, kind: Kind, names: Sequence[str]) -> Path | None:
    """The table of a kind of facts about files below the folder that these share: lists over one folder share it."""
    try:
        code = [Path(str(module.__file__)).read_bytes() for module in kind.code]
        shared = os.path.commonpath({os.path.dirname(name) for name in names})  # noqa: PTH120  (Path.parent is slow)
    except (OSError, ValueError):  # ValueError: no files, or files on several drives
        return None
    digest = hashlib.sha256(json.dumps([kind.name, shared]).encode())
    for source in code:
        digest.update(hashlib.sha256(source).digest())
    return folder / f"{digest.hexdigest()[:24]}.json"


def _read(place: Path) -> dict[str, list[Any]]:
    """The rows of a table by file, each [size, time, fact]; none where it is absent or damaged."""
    try:
        checksum, _, content = place.read_bytes().partition(b"\n")
        if checksum != hashlib.sha256(content).hexdigest().encode():
            return {}
        table = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(table, dict) or not all(isinstance(row, list) and len(row) == 3 for row in table.values()):
        return {}
    touch(place)
    return table


def _write(place: Path, table: Mapping[str, list[Any]]) -> None:
    content = json.dumps(table, separators=(",", ":")).encode()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, lambda file: file.writelines((hashlib.sha256(content).hexdigest().encode(), b"\n", content)))
    except OSError:
        return
    prune(place)


def touch(entry: Path) -> None:
    """Note that an entry of the cache's folder is used now, where that can be noted."""
    with contextlib.suppress(OSError):
        os.utime(entry)


def prune(newest: Path, unused_days: float = UNUSED_DAYS, most_bytes: int = MOST_BYTES) -> list[str]:
    """Remove what has not been used for long, then what was used longest ago until the rest is small enough.

    Another start may be using what is removed: where a system lets it be removed all the same, frames that are mapped
    into memory stay readable.

    Args:
        newest: the entry that was written last; it stays, and so does what lies beside it and is not ours.

    Returns:
        The names of what was removed.
    """
    found = []
    for entry in _entries(newest.parent):
        used, size = _use(entry)
        if entry != newest:
            found.append((used, size, entry))
    total = _use(newest)[1] + sum(size for _, size, _ in found)
    oldest, removed, freed = time.time() - unused_days * 86_400, [], 0
    for used, size, entry in sorted(found):
        # a draft is another start's at work, unless it is old
        unwanted = used < oldest or (total > most_bytes and not entry.name.startswith(("draft-", ".")))
        if unwanted and remove(entry):
            removed.append(entry.name)
            total, freed = total - size, freed + size
    if removed:
        LOGGER.info(
            "%s: %d entries removed (%.2f GB): unused for %g days, or the longest unused of more than %g GB",
            newest.parent, len(removed), freed / 1e9, unused_days, most_bytes / 1e9,
        )  # fmt: skip
    return removed


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if OURS.fullmatch(path.name) and not path.is_symlink()]
    except OSError:
        return []


def _use(entry: Path) -> tuple[float, int]:
    """When an entry was last used or written to, in seconds, and its bytes."""
    used, size = 0.0, 0
    with contextlib.suppress(OSError):  # removed meanwhile
        for path in (entry, *(entry.iterdir() if entry.is_dir() else ())):
            state = path.stat()
            used, size = max(used, state.st_mtime), size + state.st_size
    return used, size


def remove(entry: Path) -> bool:
    """Remove an entry at once or, where the system does not allow it, not at all: no start may find a part of it."""
    try:
        if entry.is_dir():
            aside = Path(tempfile.mkdtemp(dir=entry.parent, prefix="draft-"))
            try:
                entry.rename(aside / entry.name)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        else:
            entry.unlink()
    except OSError:
        return False
    return True
