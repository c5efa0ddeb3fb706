"""Files of torch.save read as data: the same tensors, and one line for every file that is none or does harm."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_unpickling import hostile
from utils.archive import OLD_FORMAT, plain, read_archive
from utils.log import InputError
from utils.unpickling import Record, RefusedError

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip


def archived(path: Path, data: bytes, **entries: bytes) -> Path:
    """A file as torch.save's around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", b"3\n")
        for name, content in entries.items():
            archive.writestr(f"a/{name.replace('__', '/')}", content)
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_those_of_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    numbers = (torch.arange(24) % 2 if dtype == torch.bool else torch.arange(24)).to(dtype).view(2, 3, 4)
    saved = {"whole": numbers, "turned": numbers.permute(2, 0, 1), "part": numbers[1, :, 1:3], "one": numbers[1, 2, 3],
             "none": numbers[:0], "again": numbers}  # fmt: skip
    torch.save(saved, tmp_path / "a.pt")
    read = read_archive(tmp_path / "a.pt")
    assert read.keys() == saved.keys()
    for name, tensor in saved.items():
        assert read[name].dtype == dtype and torch.equal(read[name], tensor), name


def test_parameters_modules_and_numpys_numbers_are_read(tmp_path: Path) -> None:
    inside = torch.nn.Linear(2, 3)
    module = torch.nn.Sequential(inside, torch.nn.SiLU())
    content = {
        "module": module, "parameter": torch.nn.Parameter(torch.ones(2)), "state": module.state_dict(),
        "number": np.float64(0.25), "array": np.arange(6.0).reshape(2, 3), "path": Path("a/b"),
        "size": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": torch.float16, "set": {1},
        "text": np.array(["x"]),
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pt")
    read = read_archive(tmp_path / "a.pt")
    linear = read["module"].get("_modules")["0"]
    assert linear.kind == "torch.nn.modules.linear.Linear" and linear.get("out_features") == 3
    assert torch.equal(linear.get("_parameters")["weight"], inside.weight)
    assert torch.equal(read["state"]["0.bias"], inside.bias) and torch.equal(read["parameter"], torch.ones(2))
    assert plain({key: read[key] for key in ("number", "array", "path", "size", "set", "text", "dtype", "module")}) == {
        "number": 0.25, "array": [[0, 1, 2], [3, 4, 5]], "path": "a/b", "size": [1, 2], "set": [1], "text": None,
        "dtype": None, "module": None,
    }  # fmt: skip


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


def tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...], kind: str = "FloatStorage",
                  count: int = 4, key: str = "0") -> bytes:  # fmt: skip
    """A pickle of one tensor over the storage ``a/data/0``."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            storage = ("storage", getattr(torch, kind), key, "cpu", count)
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    file = io.BytesIO()
    Writer(file, 2).dump(Tensor())
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tensor_pickle(0, (10**9,), (0,)), "larger than its data"),
        (tensor_pickle(0, (5,), (1,)), "larger than its data"),
        (tensor_pickle(2, (3,), (1,)), "larger than its data"),
        (tensor_pickle(0, (2, 2), (3, 1)), "larger than its data"),
        (tensor_pickle(-1, (2,), (1,)), "impossible shape"),
        (tensor_pickle(0, (-1,), (1,)), "impossible shape"),
        (tensor_pickle(0, (2**62, 4), (1, 1)), "impossible shape"),
        (tensor_pickle(0, (20_000_000, 0), (0, 0)), "impossible shape"),
        (tensor_pickle(0, (1,) * 9, (1,) * 9), "without data of its own"),
        (tensor_pickle(0, (2,), (1, 1)), "without data of its own"),
        (tensor_pickle(0, (8,), (1,), count=8), "not the 8 FloatStorage"),
        (tensor_pickle(0, (4,), (1,), key="7"), "'7' are missing"),
        (tensor_pickle(0, (4,), (1,), key="../../data.pkl"), "are missing"),
    ],
)
def test_tensors_that_are_not_what_they_claim_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = archived(tmp_path / "x.pt", data, data__0=np.arange(4, dtype=np.float32).tobytes())
    with pytest.raises(InputError, match=words):
        read_archive(path)


def test_the_tensor_that_those_are_made_from_is_read(tmp_path: Path) -> None:
    path = archived(tmp_path / "x.pt", tensor_pickle(1, (3,), (1,)), data__0=np.arange(4, dtype=np.float32).tobytes())
    assert read_archive(path).tolist() == [1, 2, 3]


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


def test_settings_are_bounded(tmp_path: Path) -> None:
    many = torch.zeros(1001)
    content = {"large": 2**63, "many": many, "empty": torch.zeros(3000, 0), "text": np.zeros((2, 3), "U1"),
               "array": np.zeros((2000, 0))}  # fmt: skip
    torch.save(content, tmp_path / "a.pt")
    assert plain(read_archive(tmp_path / "a.pt")) == dict.fromkeys(content)
    with pytest.raises(RefusedError, match="no end"):
        plain([torch.zeros(1000)] * 2000)


def test_settings_without_an_end_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    shared: Any = 1
    for _ in range(40):
        shared = [shared, shared]  # 2 ** 40 parts
    for value in (endless, shared, Record("argparse.Namespace", state={"a": endless})):
        with pytest.raises(RefusedError, match="no end"):
            plain(value)
