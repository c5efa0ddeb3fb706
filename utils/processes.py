"""Processes that torchrun starts together: which one this is, and what those of a training tell each other.

In a training each loads its share of every batch; gradients and losses are *summed*, because each process divides by
what all of them hold. One of them, rank 0, writes files. A detection's processes tell each other nothing
(:func:`here`). A script that is started without torchrun is :data:`ALONE`.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed
from torch import Tensor, nn

from utils.log import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among all that torchrun has started together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank, local_size: the same among those on this machine.
        launch: names the start of torchrun that this process belongs to, the same after it has started it again, and on
            each machine another where --rdzv-id names none; "" without torchrun.
        restarts: how many times torchrun has started them again.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launch: str = ""
    restarts: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that speaks for all, and writes what all have made together."""
        return self.rank == 0

    @property
    def start(self) -> str:
        """One text for those that one torchrun has started on this machine at once, and for no others."""
        return "-".join((self.launch, str(self.restarts), socket.gethostname(), str(os.getppid())))

    def share(self, items: Sequence[T]) -> list[T]:
        """Every ``size``-th item: nothing is agreed on while work goes on, so nothing can be waited for in vain."""
        return list(items[self.rank :: self.size])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each; changes ``tensor``."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any of them."""
        return bool(self.sum(torch.tensor(int(flag))))

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, in each of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def of_main(self, value: T) -> T:
        """Rank 0's value, in each of them."""
        values = [value]
        if self.size > 1:
            torch.distributed.broadcast_object_list(values)
        return values[0]

    def share_state(self, network: nn.Module) -> None:
        """Give every process the weights and buffers of rank 0."""
        for tensor in network.state_dict().values() if self.size > 1 else ():
            torch.distributed.broadcast(tensor, 0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes, in one message."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size > 1 and gradients:
            self._together(gradients)

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Set the running statistics of every process to their mean."""
        statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        if self.size > 1 and statistics:
            self._together(statistics)
            torch._foreach_div_(statistics, self.size)

    def _together(self, tensors: list[Tensor]) -> None:
        """Sum each tensor over all processes, in place."""
        flat = self.sum(torch.cat([tensor.reshape(-1).float() for tensor in tensors]))
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def seed(self, *numbers: int) -> None:
        """Let what is drawn next (dropout) follow from the numbers and the rank; alone, the generator goes on as it is.

        One checkpoint could not hold the states of all processes' generators; so no state is needed.
        """
        if self.size > 1:
            digest = hashlib.sha256(repr((*numbers, self.rank)).encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "little"))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # after an error the others may wait in a message for ever: torchrun ends them once this process has ended
        if self.size > 1 and error is None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


ALONE = Processes()


def joined(environment: Mapping[str, str] = os.environ) -> Processes:
    """:func:`here`, once the processes have met and can tell each other something."""
    found = here(environment)
    if found.size > 1 and not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, _, _ = next(torch.distributed.rendezvous("env://", found.rank, found.size))
        # torchrun's store outlives the processes: without a prefix, those of a restart find the addresses of the dead
        fresh = torch.distributed.PrefixStore(f"restart{found.restarts}", store)
        torch.distributed.init_process_group(backend, store=fresh, rank=found.rank, world_size=found.size)
    return found


def here(environment: Mapping[str, str] = os.environ) -> Processes:
    """This process by torchrun's variables; :data:`ALONE` without them. It meets no other.

    Raises:
        InputError: a variable is no number, or a rank is not below its number of processes.
    """
    if "WORLD_SIZE" not in environment and "RANK" not in environment:
        return ALONE
    rank, size = _rank(environment, "RANK", "WORLD_SIZE")
    local_rank, local_size = _rank(environment, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    restarts = _number(environment, "TORCHELASTIC_RESTART_COUNT", "0")
    return Processes(rank, size, local_rank, local_size, _launch(environment), restarts)


def _rank(environment: Mapping[str, str], rank: str, size: str) -> tuple[int, int]:
    """A rank and its number of processes, by the variables' names."""
    number, count = _number(environment, rank, "0"), _number(environment, size, "1")
    if not number < count:
        raise InputError(f"{rank}: expected a number below {size}, {count}, got {number}")
    return number, count


def _number(environment: Mapping[str, str], name: str, default: str) -> int:
    text = environment.get(name, default)
    if not text.isdecimal():
        raise InputError(f"{name}: expected a whole number, as torchrun sets it, got {text!r}")
    return int(text)


def _launch(environment: Mapping[str, str]) -> str:
    name = environment.get("TORCHELASTIC_RUN_ID", "none")
    if name != "none":  # what torchrun says where --rdzv-id does not
        return name
    # two launches may meet at one address, one after the other; torchrun itself, our parent, outlives its restarts
    parent = f"{socket.gethostname()}-{os.getppid()}-{psutil.Process(os.getppid()).create_time():.2f}"
    return f"{environment.get('MASTER_ADDR', '')}:{environment.get('MASTER_PORT', '')}-{parent}"
