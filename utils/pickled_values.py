"""What stands in for the functions that a pickle calls: tensors, numbers, paths; and settings made plain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from utils.unpickling import Global, Record, RefusedError, StandIn, new_record

LARGEST_SIDE = 2**31  # of a tensor
LARGEST_SETTING = 1000  # numbers of a tensor or array among settings
NUMPY_KINDS = "biuf"  # of which arrays are read; any other is left out


@dataclass(frozen=True)
class Storage:
    """Numbers in a row, as an entry of the archive holds them."""

    numbers: Tensor  # (n,)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage that lies wholly inside it and has no more numbers than it."""
    lists = isinstance(size, (tuple, list)) and isinstance(stride, (tuple, list)) and len(size) == len(stride) <= 8
    if not isinstance(storage, Storage) or not lists:
        raise RefusedError("it has a tensor without data of its own")
    numbers = [offset, *size, *stride]
    if not all(type(number) is int and 0 <= number < LARGEST_SIDE for number in numbers):
        raise RefusedError("it has a tensor of impossible shape")
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else -1
    if not count and max(size) > 2**16:
        raise RefusedError(f"it has a tensor of impossible shape, {tuple(size)}")
    if count > len(storage.numbers) or last >= len(storage.numbers):
        raise RefusedError(f"it has a tensor of shape {tuple(size)}, larger than its data")
    return storage.numbers.as_strided(size, stride, offset) if count else storage.numbers.new_empty(size)


def _from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor that had attributes of its own: without them."""
    if not isinstance(function, Global) or function.name not in TENSORS:
        raise RefusedError("it asks for a tensor of an unknown kind")
    return TENSORS[function.name](*arguments)


def _array(kind: Any, *_: Any) -> Record:
    return new_record(kind, ())


def _scalar(dtype: Any, data: Any = b"") -> float | int | None:
    """A number of numpy's, from its type and bytes."""
    if isinstance(dtype, Record) and dtype.kind == "numpy.dtype":
        dtype = dtype.arguments[0]
    kind = np.dtype(dtype) if isinstance(dtype, str) and dtype[:1] in NUMPY_KINDS else None
    if kind is None or not isinstance(data, bytes) or len(data) != kind.itemsize:
        return None
    return np.frombuffer(data, kind)[0].item()


def _encoded(text: Any, *_: Any) -> bytes:
    if not isinstance(text, str):
        raise RefusedError("it has bytes that are none")
    return text.encode("latin-1")


def _joined(*parts: Any) -> str:
    return "/".join(part for part in parts if isinstance(part, str)).replace("//", "/")


def _nothing(*_: Any) -> None:
    return None


def _first(*values: Any) -> Any:
    return values[0] if values else None


def _pairs(pairs: Any = ()) -> dict[Any, Any]:
    flat = all(len(pair) == 2 and isinstance(pair[0], (str, int, float)) for pair in pairs)
    if not flat:
        raise RefusedError("it has an ordered dict of something else than pairs")
    return dict(pairs)


def _list(values: Any = ()) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else []


def _device(*words: Any) -> str:
    return ":".join(str(word) for word in words if isinstance(word, str) or type(word) is int)


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    """A dict with a default, or of counts."""
    return dict(arguments[-1]) if arguments and isinstance(arguments[-1], dict) else {}


TENSORS: Mapping[str, StandIn] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
}


STAND_INS: Mapping[str, StandIn] = {
    **TENSORS,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": lambda values=(): tuple(_list(values)),
    "torch.device": _device,
    "collections.OrderedDict": _pairs,
    **dict.fromkeys(("collections.defaultdict", "collections.Counter"), _dictionary),
    # of no use here, but on the way to what is
    **dict.fromkeys(
        ("datetime.datetime", "datetime.date", "torchvision.transforms.functional.InterpolationMode"), _nothing
    ),
    "builtins.bytes": lambda *_: b"",  # how no bytes at all are written
    "builtins.set": _list,
    "builtins.frozenset": _list,
    "copyreg._reconstructor": lambda kind, base, state: new_record(kind, ()),
    "_codecs.encode": _encoded,
    **{f"pathlib.{kind}Path": _joined for kind in ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")},
    **{f"pathlib._local.{kind}Path": _joined for kind in ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")},
    "numpy.dtype": lambda *words: Record("numpy.dtype", words),
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}


def plain(value: Any, budget: int = 1_000_000) -> Any:
    """A value without records: dicts, lists, numbers and text alone; what is none of these becomes None.

    Args:
        budget: parts that may be looked at, so that a container that contains itself has an end.

    Raises:
        RefusedError: it has more parts.
    """
    left = [budget]
    return _plain(value, left, 0)


def _plain(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > 50:
        raise RefusedError("its settings have no end")
    if isinstance(value, int) and abs(value) >= 2**63:
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        left[0] -= value.numel()
        return value.tolist() if 0 < value.numel() <= LARGEST_SETTING else None
    if isinstance(value, dict):
        return {key: _plain(item, left, depth + 1) for key, item in value.items() if isinstance(key, (str, int))}
    if isinstance(value, (list, tuple)):
        return [_plain(item, left, depth + 1) for item in value]
    if isinstance(value, Record):
        left[0] -= LARGEST_SETTING
        return _plain(value.state, left, depth + 1) if value.kind.endswith(".Namespace") else _array_values(value)
    return None


def _array_values(record: Record) -> Any:
    """The numbers of a record of numpy's array, nested as its shape; None for any other record."""
    state = record.state
    if record.kind != "numpy.ndarray" or not isinstance(state, tuple) or len(state) != 5:
        return None
    _, shape, dtype, fortran, data = state
    word = dtype.arguments[0] if isinstance(dtype, Record) and dtype.arguments else dtype
    small = isinstance(data, bytes) and 0 < len(data) <= 8 * LARGEST_SETTING
    if not (small and isinstance(word, str) and word[:1] in NUMPY_KINDS):
        return None
    try:
        return np.frombuffer(data, np.dtype(word)).reshape(shape, order="F" if fortran else "C").tolist()
    except (TypeError, ValueError):  # of another size than its shape, or of a type that numpy does not know
        return None
