"""Where a network computes: the device, the number type, the random seeds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import time
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from utils.log import LOGGER, InputError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


@dataclass(frozen=True)
class Compute:
    """A device, the type that convolutions compute in there, and the order of values in memory.

    Attributes:
        device: of the network and its batches.
        amp: type under autocast; None computes in fp32 throughout.
        layout: of images and weights; channels last is what convolutions are fastest in, on processors and GPUs.
    """

    device: torch.device
    amp: torch.dtype | None
    layout: torch.memory_format = torch.channels_last

    def place(self, network: AnyModule) -> AnyModule:
        """Move a network to the device, in the layout; returns it."""
        return network.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The context for a forward pass."""
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)

    def now(self) -> float:
        """Seconds, once the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        kind = str(self.amp or torch.float32).removeprefix("torch.")
        return f"{name}, {kind}" + ("" if self.device.type == "cuda" else f", {torch.get_num_threads()} threads")


def select_compute(device: str = "", amp: bool | None = None, threads: int = 0) -> Compute:
    """A device by YOLOv5's words, and its fast number type.

    Args:
        device: "cpu", "0" or "cuda:0" for a GPU, "mps", or "" for the first GPU, else the CPU.
        amp: True asks for bf16 mixed precision, False forbids it, None takes it where the device computes bf16 in
            hardware. A GPU without it stays in fp32.
        threads: of the processor; 0 leaves them as they are. Sums may differ in the last digit by their number.

    Raises:
        InputError: no such device, or several; a negative number of threads.
    """
    if threads < 0:
        raise InputError(f"--threads: expected at least 0, got {threads}")
    if threads:
        torch.set_num_threads(threads)
    chosen = _device(device.strip().lower())
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # what is asked of "the" GPU below means this one
    fast = _fast_type(chosen, amp)
    if amp and fast is None:
        LOGGER.warning("--amp: this device does not compute bf16; fp32 it is")
    return Compute(chosen, fast)


def _device(name: str) -> torch.device:
    if "," in name:
        raise InputError(f"--device {name}: expected one device; several are not supported in one process")
    if name in ("", "cpu"):
        return torch.device("cuda:0" if name == "" and torch.cuda.is_available() else "cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device mps: not available on this machine")
        return torch.device("mps")
    number = name.removeprefix("cuda").removeprefix(":") or "0"
    if not number.isdecimal():
        raise InputError(f"--device {name}: expected cpu, mps, or a GPU's number")
    if int(number) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: expected a GPU below {torch.cuda.device_count()}, the number found here")
    return torch.device("cuda", int(number))


def _fast_type(device: torch.device, amp: bool | None) -> torch.dtype | None:
    if amp is False:
        return None
    if device.type == "cuda":
        # bf16 needs no loss scaling; cards without it stay in fp32, where nothing under- or overflows unseen
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type == "cpu" and (amp or cpu_has_bf16()):
        return torch.bfloat16
    return None


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware (AVX512-BF16, AMX)."""
    if not torch.backends.mkldnn.is_available():
        return False
    # torch has no public question for this; a version without these private ones counts as without bf16
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check)() for check in checks if hasattr(torch.cpu, check))


def cores() -> int:
    """Cores of the processor that this process may use; a container or a scheduler may give it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let the process keep the memory it frees, where the C library is glibc; elsewhere nothing changes.

    A network's larger tensors are otherwise mapped from the system and given back at each step, and the system clears
    every page anew: a fifth of a plain training step (benchmarks/train_speed.py). It concerns the whole process, so
    scripts ask for it, not modules.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


class RandomStream:
    """Generators of one task's own; within the context they are the global ones, of torch, numpy and Python.

    So what a task draws depends on its seed and on itself, not on what else the process does.
    """

    def __init__(self, seed: int) -> None:
        outside = _generators()
        seed_everything(seed)
        self._own = _generators()
        _set_generators(outside)

    def __enter__(self) -> None:
        self._outside = _generators()
        _set_generators(self._own)

    def __exit__(self, *_: object) -> None:
        self._own = _generators()
        _set_generators(self._outside)


def _generators() -> tuple[Any, ...]:
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), gpu, np.random.get_state(), random.getstate()  # noqa: NPY002


def _set_generators(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])  # noqa: NPY002
    random.setstate(state[3])


def seed_everything(seed: int) -> None:
    """Fix the generators that any part may draw from, and choose repeatable convolutions.

    On a CPU a run repeats bit for bit; on a GPU the backward passes of pooling and upsampling still may not.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (libraries draw from the global generator)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def to_float(images: Tensor, compute: Compute) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 in [0, 1] on the device, in its layout."""
    images = images.to(compute.device, non_blocking=True)
    return images.to(torch.float32, memory_format=compute.layout).div_(255)
