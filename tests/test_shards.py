"""utils.shards: torchrun's variables, shares of files and of a machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import cv2
import pytest
import torch

from utils import shards
from utils.log import LOGGER, InputError
from utils.shards import Place, here

GIVEN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "a"}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_without_torchrun_a_process_is_the_only_one() -> None:
    assert here({"LOCAL_RANK": "3"}) == Place()
    assert not Place().by_torchrun and here({"RANK": "0", "WORLD_SIZE": "1"}).by_torchrun
    assert Place().share("abc") == list("abc") and Place().device("") == ""


def test_torchruns_variables() -> None:
    place = here(GIVEN)
    assert (place.rank, place.world, place.local_rank, place.local_world) == (5, 8, 1, 4)
    assert place.start == here(GIVEN | {"RANK": "4", "LOCAL_RANK": "0"}).start
    assert place.start != here(GIVEN | {"TORCHELASTIC_RESTART_COUNT": "1"}).start


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RANK", "x", "RANK: expected a whole number"),
        ("RANK", "8", "RANK: expected a number below WORLD_SIZE, 8, got 8"),
        ("WORLD_SIZE", "-1", "WORLD_SIZE: expected a whole number"),
        ("LOCAL_WORLD_SIZE", "1", "LOCAL_RANK: expected a number below LOCAL_WORLD_SIZE, 1, got 1"),
    ],
)
def test_variables_that_are_wrong(name: str, value: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        here(GIVEN | {name: value})


@pytest.mark.parametrize("world", [1, 2, 3, 7, 20])
def test_shares_are_all_items_each_once(world: int) -> None:
    items = list(range(11))
    shares = [Place(rank, world, rank, world).share(items) for rank in range(world)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_takes_its_share_of_the_processor(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    monkeypatch.setattr(shards, "cores", lambda: 6)
    monkeypatch.setattr(LOGGER, "level", logging.INFO)
    for given, local_world, expected in ((None, 2, 3), ("1", 4, 1), ("1", 3, 2), ("1", 9, 1), ("5", 2, 2)):
        torch.set_num_threads(2)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        else:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        Place(0, local_world, 0, local_world).settle()
        assert torch.get_num_threads() == expected  # what the user has set stays
    assert LOGGER.level == logging.INFO
    Place(1, 2, 1, 2).settle()
    assert LOGGER.level == logging.WARNING


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Place(rank, 4, rank, 4).device("") for rank in range(4)] == ["0", "1", "0", "1"]
    assert Place(1, 4, 1, 4).device("cpu") == "cpu"
