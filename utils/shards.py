"""Which of several processes this one is, by torchrun's variables, and its share of a machine and of a list."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import torch

from utils.devices import cores
from utils.log import LOGGER, InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """One process among those that were started together; the only one unless torchrun says otherwise.

    Attributes:
        rank, world: this process of so many, on all machines.
        local_rank, local_world: this process of so many on this machine.
        start: one text for all processes that one torchrun has started here at once, and for no others.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    start: str = ""

    @property
    def by_torchrun(self) -> bool:
        """Whether torchrun has started this process, perhaps as the only one."""
        return bool(self.start)

    def share(self, items: Sequence[T]) -> list[T]:
        """Every ``world``-th item: nothing is agreed on while work goes on, so nothing can be waited for in vain."""
        return list(items[self.rank :: self.world])

    def device(self, asked: str) -> str:
        """The device that is asked for, or else this process's own GPU where there are any."""
        if asked or self.world == 1 or not torch.cuda.is_available():
            return asked
        return str(self.local_rank % torch.cuda.device_count())

    def settle(self) -> None:
        """Take no more than this process's share of the processor, and leave information to the first process."""
        if self.world == 1:
            return
        if os.environ.get("OMP_NUM_THREADS", "1") == "1":  # torchrun sets 1 where the user has set nothing
            torch.set_num_threads(max(1, cores() // self.local_world))
        cv2.setNumThreads(max(1, cores() // self.local_world))
        if self.rank:
            LOGGER.setLevel(logging.WARNING)


def here(environment: Mapping[str, str] | None = None) -> Place:
    """This process's place, of the variables RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE.

    Raises:
        InputError: one of them is no number, or a rank is not below its number of processes.
    """
    given = os.environ if environment is None else environment
    if "WORLD_SIZE" not in given and "RANK" not in given:
        return Place()
    rank, world = _pair(given, "RANK", "WORLD_SIZE", 0, 1)
    local_rank, local_world = _pair(given, "LOCAL_RANK", "LOCAL_WORLD_SIZE", 0, 1)
    parts = (given.get("TORCHELASTIC_RUN_ID", ""), given.get("TORCHELASTIC_RESTART_COUNT", ""))
    start = "-".join((*parts, socket.gethostname(), str(os.getppid())))
    return Place(rank, world, local_rank, local_world, start)


def _pair(given: Mapping[str, str], rank: str, world: str, first: int, count: int) -> tuple[int, int]:
    values = []
    for name, default in ((rank, first), (world, count)):
        text = given.get(name, str(default))
        if not text.isdecimal():
            raise InputError(f"{name}: expected a whole number, as torchrun sets it, got {text!r}")
        values.append(int(text))
    if not values[0] < values[1]:
        raise InputError(f"{rank}: expected a number below {world}, {values[1]}, got {values[0]}")
    return values[0], values[1]
