"""utils/devices.py: which device and number type a word means, on any machine, and seeds that repeat."""

from __future__ import annotations

import platform
import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from utils import devices
from utils.config import ROOT
from utils.devices import Compute, RandomStream, seed_everything, select_compute
from utils.log import InputError

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with two GPUs that compute bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("word", ["cpu", " CPU "])
def test_cpu_is_the_cpu_whatever_there_is(gpus: None, word: str) -> None:
    assert select_compute(word, amp=False) == Compute(CPU, None)


def test_no_word_is_the_first_gpu_or_else_the_cpu(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_compute().device == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_compute().device == CPU


@pytest.mark.parametrize(("word", "number"), [("0", 0), ("1", 1), ("cuda:1", 1), ("cuda", 0), ("CUDA:0", 0)])
def test_a_gpu_by_its_number(gpus: None, word: str, number: int) -> None:
    assert select_compute(word).device == torch.device("cuda", number)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("0,1", "--device 0,1: expected one device; several are not supported in one process"),
        ("2", "--device 2: expected a GPU below 2, the number found here"),
        ("cuda:7", "--device cuda:7: expected a GPU below 2"),
        ("tpu", "--device tpu: expected cpu, mps, or a GPU's number"),
        ("-1", "--device -1: expected cpu, mps, or a GPU's number"),
        ("cuda:x", "--device cuda:x: expected cpu, mps, or a GPU's number"),
        ("²", "--device ²: expected cpu, mps, or a GPU's number"),
        ("gpu0", "--device gpu0: expected cpu, mps, or a GPU's number"),
    ],
)
def test_a_device_that_is_not_there_is_told(gpus: None, word: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        select_compute(word)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("word", ["0", "cuda", "mps"])
def test_without_a_gpu_every_gpu_is_told_to_be_missing(no_gpu: None, word: str) -> None:
    with pytest.raises(InputError, match=rf"--device {word}: (expected a GPU below 0|not available)"):
        select_compute(word)


@pytest.mark.parametrize(
    ("amp", "has_bf16", "kind"),
    [
        (False, True, None),
        (None, True, torch.bfloat16),
        (None, False, None),
        (True, False, torch.bfloat16),  # asked for: slow, but possible
        (False, False, None),
    ],
)
def test_the_number_type_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, amp: bool | None, has_bf16: bool, kind: torch.dtype | None
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: has_bf16)
    assert select_compute("cpu", amp).amp == kind


def test_the_number_type_on_a_gpu(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_compute("0", amp=None).amp == torch.bfloat16
    assert select_compute("0", amp=False).amp is None
    # an older card: no bf16 but by emulation, which does not count
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert select_compute("0", amp=None).amp is None


def test_autocast_computes_in_the_type_and_leaves_no_trace() -> None:
    ones = torch.ones(4, 4)
    with Compute(CPU, torch.bfloat16).autocast():
        assert (ones @ ones).dtype == torch.bfloat16
    with Compute(CPU, None).autocast():
        assert (ones @ ones).dtype == torch.float32
    assert (ones @ ones).dtype == torch.float32


def test_a_compute_names_its_device_and_type() -> None:
    threads = torch.get_num_threads()
    assert str(Compute(CPU, None)) == f"CPU, float32, {threads} threads"
    assert str(Compute(CPU, torch.bfloat16)) == f"CPU, bfloat16, {threads} threads"


@pytest.fixture
def generators_as_before() -> Iterator[None]:
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


def test_seeds_repeat_in_every_generator(generators_as_before: None) -> None:
    def drawn(seed: int) -> tuple[float, float, float]:
        seed_everything(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    first, other = drawn(42), drawn(43)
    assert drawn(42) == first
    assert all(one != another for one, another in zip(first, other, strict=True))
    assert drawn(2**32 - 1) == drawn(2**32 - 1)  # the largest that a hyp file may have
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


def draw() -> tuple[float, float, float]:
    """A number of each generator that the tasks may draw from."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_what_a_stream_draws_depends_on_its_seed_alone(generators_as_before: None) -> None:
    alone = RandomStream(7)
    with alone:
        expected = [draw() for _ in range(4)]
    streams = RandomStream(7), RandomStream(7), RandomStream(8)
    got: list[list[tuple[float, float, float]]] = [[], [], []]
    for _ in range(4):  # by turns, and other draws in between
        for stream, seen in zip(streams, got, strict=True):
            with stream:
                seen.append(draw())
            draw()
    assert got[0] == got[1] == expected
    assert not {number for drawn in got[2] for number in drawn} & {number for drawn in expected for number in drawn}


def test_a_stream_leaves_the_generators_outside_as_they_were(generators_as_before: None) -> None:
    seed_everything(3)
    expected = [draw(), draw()]
    seed_everything(3)
    stream = RandomStream(5)
    first = draw()
    with pytest.raises(KeyError), stream:
        draw()
        raise KeyError
    assert [first, draw()] == expected
    with stream:
        after = draw()
    with RandomStream(5):
        draw()
        assert draw() == after  # also after an error the stream stands where it was left


def test_a_number_of_threads_is_set_none_leaves_them_and_fewer_are_refused() -> None:
    before = torch.get_num_threads()
    try:
        select_compute("cpu", amp=False, threads=2)
        assert torch.get_num_threads() == 2
        select_compute("cpu", amp=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(InputError, match="--threads: expected at least 0, got -1"):
        select_compute("cpu", amp=False, threads=-1)


def test_a_network_is_placed_on_the_device_in_the_layout() -> None:
    for layout in (torch.channels_last, torch.contiguous_format):
        placed = Compute(CPU, None, layout).place(torch.nn.Conv2d(4, 8, 3))
        assert placed.weight.is_contiguous(memory_format=layout)
    assert Compute(CPU, None).layout is torch.channels_last


@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_kept_memory_is_not_paged_in_again() -> None:
    """In processes of their own, as it cannot be undone."""
    program = """
import resource, sys, torch
from utils.devices import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
    keep_memory()
torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16_000_000)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {}
    for word in ("kept", "given back"):
        command = [sys.executable, "-c", program, word]
        faults[word] = int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout)
    assert faults["kept"] < 0.75 * faults["given back"]  # not 0: what is freed is a little too small for the next


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_a_c_library_without_mallopt_is_left_as_it_is(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: None) -> None:
        raise error

    monkeypatch.setattr(devices.ctypes, "CDLL", absent)
    devices.keep_memory()


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda process: {0, 3, 4}, raising=False)
    assert devices.cores() == 3
    monkeypatch.delattr(devices.os, "sched_getaffinity")
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 7)
    assert devices.cores() == 7
