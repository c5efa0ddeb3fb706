"""Files of torch.save read as data: the same tensors, and one line for every file that is none or does harm."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_unpickling import hostile
from utils import archive
from utils.archive import OLD_FORMAT, read_archive
from utils.log import InputError


def archived(path: Path, data: bytes, **entries: bytes) -> Path:
    """A file as torch.save's around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", b"3\n")
        for name, content in entries.items():
            archive.writestr(f"a/{name.replace('__', '/')}", content)
    return path


@pytest.mark.parametrize("name", sorted(hostile(Path("canary"))))
def test_hostile_pickles_in_an_archive_are_one_line_and_run_nothing(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    path = archived(tmp_path / "evil.pt", hostile(canary)[name])
    with pytest.raises(InputError, match=r"evil\.pt: not read: it asks for") as caught:
        read_archive(path)
    assert not canary.exists() and "\n" not in str(caught.value)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"N" * 50_000_000 + b".")


def overlapping(path: Path) -> None:
    """A zip whose entries all claim the same bytes (the bomb without compression)."""
    archived(path, b"N" * 1000 + b".")
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    start = struct.unpack("<I", data[end + 16 : end + 20])[0]
    directory = data[start:end]
    count = 1000
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory) * count, start, 0)
    path.write_bytes(data[:start] + directory * count + tail)


def old_format(path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(1, 2))
        archive.writestr("a/constants.pkl", pickle.dumps(1, 2))


def cut(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    """One bit of the tensor's numbers: the checksum of the entry tells."""
    torch.save({"a": torch.full((1000,), 1.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1.0) * 500) + 10] ^= 1
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    archived(path, b"N.")
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such checkpoint"),
        (lambda path: path.mkdir(), "no such checkpoint"),
        (lambda path: path.touch(), "an empty file"),
        (lambda path: path.write_text("weights"), "a file that is none"),
        (lambda path: path.write_bytes(bytes(2000)), "a file that is none"),
        (lambda path: path.write_bytes(OLD_FORMAT), "format of torch before 1.6"),
        (old_format, "format of torch before 1.6"),
        (tar, "a tar file"),
        (cut, "a file that is cut off"),
        (flipped, "damaged"),
        (encrypted, "damaged|encrypted"),
        (zip_bomb, "its entries claim 50,000,001 bytes in a file of .*, compressed"),
        (overlapping, "its entries claim 1,003,000 bytes in a file of"),
        (torchscript, "TorchScript"),
        (lambda path: archived(path, b"N" * 9_000_000), "at most 8,388,608 bytes"),
        (lambda path: archived(path, b"N.", byteorder=b"big"), "little-endian"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "no data.pkl"),
        (lambda path: archived(path, b"\x80\x02]"), "early|damaged"),
    ],
)
def test_files_that_are_no_checkpoints_are_one_line(tmp_path: Path, make: Any, words: str) -> None:
    path = tmp_path / "x.pt"
    make(path)
    with pytest.raises(InputError, match=rf"x\.pt: .*({words})") as caught:
        read_archive(path)
    assert "\n" not in str(caught.value)


def test_a_file_beyond_all_size_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x.pt").open("wb") as file:
        file.truncate(9 * 2**30)  # sparse: takes no room
    with pytest.raises(InputError, match=r"at most 8,589,934,592 bytes, got 9,663,676,416"):
        read_archive(tmp_path / "x.pt")


def test_a_mapped_file_gives_the_same_tensors_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    saved: dict[str, Any] = {
        "a": torch.arange(7),
        "b": torch.rand(3, 5).half(),
        "c": torch.empty(0),
        "d": [torch.ones(2).bool()],
    }
    torch.save(saved, path)
    before = path.read_bytes()
    whole, mapped = read_archive(path), read_archive(path, mapped=True)
    for read in (whole, mapped):
        assert torch.equal(read["a"], saved["a"]) and torch.equal(read["b"], saved["b"])
        assert read["c"].shape == (0,) and torch.equal(read["d"][0], saved["d"][0])
    mapped["a"].zero_()
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot replace a file that is open")
def test_a_file_that_is_replaced_while_it_is_read_is_the_one_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"a": torch.arange(7)}, path)
    torch.save({"other": torch.zeros(3), "name": "another length"}, other)
    check = archive._check_entries

    def check_and_replace(entries: list[zipfile.ZipInfo], size: int) -> None:
        check(entries, size)
        Path(shutil.copy(other, tmp_path / "c.pt")).replace(path)

    monkeypatch.setattr(archive, "_check_entries", check_and_replace)
    assert torch.equal(read_archive(path, mapped=True)["a"], torch.arange(7))
    assert read_archive(path)["name"] == "another length"


def test_a_name_that_differs_from_the_directorys_is_not_printed_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", "x" * 50_000)
    content = bytearray(path.read_bytes())
    content[26:28] = (40_000).to_bytes(
        2, "little"
    )  # the length of the first entry's name: what follows it counts as name, too
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt: expected a checkpoint, got a damaged file: File name") as caught:
        read_archive(path)
    assert len(str(caught.value)) < 600
