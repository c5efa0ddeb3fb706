"""Tensors and settings out of pickles: torch's own numbers, and nothing that is larger than its data."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_archive import archived
from utils.archive import read_archive
from utils.log import InputError
from utils.pickled_values import plain
from utils.unpickling import Record, RefusedError

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip


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
