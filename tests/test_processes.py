"""utils.processes: torchrun's variables, shares of a list, and what two processes tell each other."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

from utils import processes as module
from utils.log import InputError
from utils.processes import ALONE, Processes, here, joined

GIVEN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "a"}


# --- by torchrun's variables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [here, joined])
def test_without_torchrun_a_process_is_alone(read: Any) -> None:
    assert read({"LOCAL_RANK": "3"}) is ALONE
    assert ALONE.main and not ALONE.launch and ALONE.share("abc") == list("abc")


@pytest.mark.parametrize("read", [here, joined])
def test_a_single_process_of_torchrun_is_known_as_its(read: Any) -> None:
    found = read({"RANK": "0", "WORLD_SIZE": "1"})
    assert (found.rank, found.size, found.local_rank, found.local_size, found.restarts) == (0, 1, 0, 1, 0)
    assert found.launch and not torch.distributed.is_initialized()


def test_torchruns_variables() -> None:
    assert here(GIVEN) == Processes(5, 8, 1, 4, "a", 0) and not here(GIVEN).main
    assert here(GIVEN | {"TORCHELASTIC_RESTART_COUNT": "2"}).restarts == 2
    assert not torch.distributed.is_initialized()


def test_a_launch_is_named_by_its_id_or_by_where_its_processes_meet_and_whose_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meeting = GIVEN | {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert here(meeting).launch.startswith("localhost:29500-")
    assert here(meeting | {"TORCHELASTIC_RUN_ID": "b"}).launch == "b"
    assert here(meeting | {"TORCHELASTIC_RESTART_COUNT": "1"}).launch == here(meeting).launch
    before = here(meeting).launch
    monkeypatch.setattr(os, "getppid", lambda: os.getpid())  # another torchrun, at the same address
    assert here(meeting).launch != before
    assert here(meeting | {"TORCHELASTIC_RUN_ID": "b"}).launch == "b"


def test_a_start_is_of_all_processes_of_one_torchrun_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    start = here(GIVEN).start
    assert here(GIVEN | {"RANK": "4", "LOCAL_RANK": "0"}).start == start
    assert here(GIVEN | {"TORCHELASTIC_RESTART_COUNT": "1"}).start != start
    assert here(GIVEN | {"TORCHELASTIC_RUN_ID": "b"}).start != start
    monkeypatch.setattr(module.os, "getppid", lambda: 1)
    assert here(GIVEN).start != start  # the same command once more, whose processes may meet at the same port


@pytest.mark.parametrize("read", [here, joined])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RANK", "x", "RANK: expected a whole number, as torchrun sets it, got 'x'"),
        ("RANK", "8", "RANK: expected a number below WORLD_SIZE, 8, got 8"),
        ("WORLD_SIZE", "-1", "WORLD_SIZE: expected a whole number"),
        ("LOCAL_WORLD_SIZE", "1", "LOCAL_RANK: expected a number below LOCAL_WORLD_SIZE, 1, got 1"),
        ("TORCHELASTIC_RESTART_COUNT", "", "TORCHELASTIC_RESTART_COUNT: expected a whole number"),
    ],
)
def test_variables_that_are_wrong(read: Any, name: str, value: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(GIVEN | {name: value})


@pytest.mark.parametrize(("cuda", "backend"), [(False, "gloo"), (True, "cpu:gloo,cuda:nccl")])
def test_joining_opens_the_group_once(cuda: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []
    stores = iter([(torch.distributed.HashStore(), 1, 4)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda *_: stores)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda name, **rest: opened.append({"name": name} | rest)
    )
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(opened))
    assert joined(GIVEN) == joined(GIVEN) == here(GIVEN)
    (group,) = opened
    assert (group["name"], group["rank"], group["world_size"]) == (backend, here(GIVEN).rank, here(GIVEN).size)
    assert isinstance(group["store"], torch.distributed.PrefixStore)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_shares_are_all_items_each_once(size: int) -> None:
    items = list(range(11))
    shares = [Processes(rank, size, rank, size).share(items) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- alone -----------------------------------------------------------------------------------------------------------


def test_alone_all_is_as_it_was() -> None:
    network = nn.BatchNorm1d(2)
    network.weight.grad = torch.ones(2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with ALONE as alone:
        assert alone.sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
        assert alone.any(True) and not alone.any(False)
        assert alone.gather("a") == ["a"] and alone.of_main("a") == "a"
        alone.share_state(network)
        alone.sum_gradients(network.parameters())
        alone.average_statistics(network)
        state = torch.get_rng_state()
        alone.seed(3)
        assert torch.equal(torch.get_rng_state(), state)
    assert network.weight.grad.tolist() == [1.0, 1.0]
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


# --- two processes ---------------------------------------------------------------------------------------------------


def _network(rank: int) -> nn.Sequential:
    """A network that is another one in each process; its second layer takes no gradient, its third is of halves."""
    torch.manual_seed(rank)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1).to(torch.bfloat16))
    network.get_buffer("1.running_mean").fill_(1.0 + 2 * rank)
    network.get_buffer("1.num_batches_tracked").fill_(rank)
    return network


def _process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    with Processes(rank, 2, rank, 2, "launch") as processes:
        given = torch.tensor([0.1 + rank, 2.0])
        found["sum"] = processes.sum(given)
        found["in place"] = given
        found["any"] = [processes.any(rank == 1), processes.any(rank == 0), processes.any(True), processes.any(False)]
        found["gather"] = processes.gather({"rank": rank})
        found["of_main"] = processes.of_main(f"of {rank}")

        network = _network(rank)
        for index in (0, 2):
            for parameter in network[index].parameters():
                parameter.grad = torch.full_like(parameter, 1.5 + rank)
        processes.sum_gradients(network.parameters())
        found["gradients"] = [parameter.grad for parameter in network.parameters()]
        processes.average_statistics(network)
        found["statistics"] = {name: buffer.clone() for name, buffer in network.named_buffers()}
        processes.share_state(network)
        found["state"] = network.state_dict()

        drawn = []
        for numbers in ((7, 1), (7, 2), (7, 1)):
            processes.seed(*numbers)
            drawn.append(torch.rand(4))
        found["drawn"] = drawn
    found["left"] = not torch.distributed.is_initialized()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(_process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_sum_and_tell(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert torch.equal(found["sum"], both[0]["sum"]) and found["sum"].tolist() == pytest.approx([1.2, 4.0])
        assert torch.equal(found["in place"], found["sum"])
        assert found["any"] == [True, True, True, False]
        assert found["gather"] == [{"rank": 0}, {"rank": 1}]
        assert found["of_main"] == "of 0"
        assert found["left"]


def test_two_processes_sum_gradients_where_there_are_any(both: list[dict[str, Any]]) -> None:
    for found in both:
        first, bias, *none, last, last_bias = found["gradients"]
        assert none == [None, None]
        for gradient, shape, kind in (
            (first, (2, 3), torch.float32), (bias, (2,), torch.float32),
            (last, (1, 2), torch.bfloat16), (last_bias, (1,), torch.bfloat16),
        ):  # fmt: skip
            assert gradient.shape == shape and gradient.dtype == kind and (gradient == 4.0).all()


def test_two_processes_average_running_statistics_and_no_counters(both: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(both):
        assert found["statistics"]["1.running_mean"].tolist() == [2.0, 2.0]
        assert found["statistics"]["1.running_var"].tolist() == [1.0, 1.0]
        assert found["statistics"]["1.num_batches_tracked"] == rank


def test_two_processes_have_the_state_of_the_first(both: list[dict[str, Any]]) -> None:
    expected = _network(0).state_dict() | {"1.running_mean": torch.tensor([2.0, 2.0])}
    for found in both:
        assert found["state"].keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found["state"].items())


def test_two_processes_draw_by_the_numbers_and_their_rank(both: list[dict[str, Any]]) -> None:
    draws = [tuple(drawn.tolist()) for found in both for drawn in found["drawn"]]
    assert draws[0] == draws[2] and draws[3] == draws[5]
    assert len(set(draws)) == 4
    torch.manual_seed(int.from_bytes(hashlib.sha256(b"(7, 1, 0)").digest()[:8], "little"))
    assert draws[0] == tuple(torch.rand(4).tolist())


def _failing(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        with Processes(rank, 2):
            raise InputError("an error of one's own")
    except InputError:
        Path(folder, f"{rank}.txt").write_text(str(torch.distributed.is_initialized()), encoding="utf-8")


def test_after_an_error_no_process_waits_for_the_others(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_failing, args=(str(tmp_path),), nprocs=2)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["True", "True"]
