"""Which frames make an epoch's batches, in which order, and which of them are this process's."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from utils.log import InputError
from utils.processes import Processes


class Key(NamedTuple):
    """What a sampler asks a dataset for; ``draw`` counts from 0 how often the epoch has drawn this item before."""

    epoch: int
    item: int
    draw: int = 0


class EpochSampler(Sampler[Key]):
    """Keys of one epoch, shuffled by (seed, epoch); with ``weights``, drawn with replacement in their proportion."""

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True) -> None:
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.epoch = 0
        self.weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order: Sequence[int] = range(self.length)
        if self.weights is not None:
            order = rng.choice(self.length, self.length, p=self.weights / self.weights.sum()).tolist()
        elif self.shuffle:
            order = rng.permutation(self.length).tolist()
        drawn: Counter[int] = Counter()
        keys = []
        for index in order:
            keys.append(Key(self.epoch, index, drawn[index]))
            drawn[index] += 1
        return iter(keys)


class EpochBatches(Sampler[list[Key]]):
    """The batches of an epoch, of which this process takes its share.

    In training each batch is divided among all processes, so that together they make the steps that one would make
    alone. In validation whole batches are dealt out in turn.

    Args:
        keys: of all frames, in order.
        batch_size: frames a batch, in all processes.
        processes: that share them.
        divided: whether each batch is divided.

    Attributes:
        first: batches of the epoch that are left out, because they have been trained on already.

    Raises:
        InputError: fewer frames in a batch, or in all, than there are processes.
    """

    def __init__(self, keys: EpochSampler, batch_size: int, processes: Processes, divided: bool) -> None:
        self.keys, self._size, self._processes, self._divided = keys, batch_size, processes, divided
        self.first = 0
        fewest = min(batch_size, len(keys))
        if divided and fewest < processes.size:
            raise InputError(
                f"--batch-size: expected at least a frame for each of {processes.size} processes, got {fewest}"
            )

    def __len__(self) -> int:
        return len(self._starts()[self._own()])

    def __iter__(self) -> Iterator[list[Key]]:
        keys, starts = list(self.keys), self._starts()
        batches = [keys[start:end] for start, end in itertools.pairwise([*starts, len(keys)])]
        rank, size = self._processes.rank, self._processes.size
        for batch in batches[self._own()][self.first :]:
            if not self._divided:
                yield batch
                continue
            yield batch[len(batch) * rank // size : len(batch) * (rank + 1) // size]

    def _own(self) -> slice:
        return slice(None) if self._divided else slice(self._processes.rank, None, self._processes.size)

    def _starts(self) -> list[int]:
        """Where each batch begins. A last one with fewer frames than processes becomes part of the one before."""
        starts = list(range(0, len(self.keys), self._size))
        rest = len(self.keys) - starts[-1]
        return starts[:-1] if self._divided and rest < self._processes.size else starts
