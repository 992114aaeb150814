"""Whole batches by tensor index, in an order that depends only on (seed, epoch): sharded, and exactly resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..batch import Batch, even_batches
from ..errors import UserError
from ..seeds import seed_at

Redraw = Callable[[Tensor, torch.Generator], Tensor]

GATHERED = 2**18  # numbers that are gathered at once: what stays in a processor's cache
FROM_FILE = 2**22  # the same out of a file: the more rows at once, the closer together they lie


class Split(Dataset):
    """Samples of one split. Index it with a tensor of B positions and it gives B samples at once.

    Args:
        x: (N, *raw_shape), raw: as stored; a tensor, or ``Rows`` of a file.
        rows: (n,), which of the N samples are in this split. The samples themselves are not copied.
        label: (n,), for each row.
        target: (n,), for each row.
        row: (n,), where each stands in its source. None: ``rows``.

    All but x are whole numbers of any type; in batches they are int64.
    """

    def __init__(self, x: Tensor, rows: Tensor, label: Tensor, target: Tensor, row: Tensor | None = None) -> None:
        self.x, self.rows, self.label, self.target = x, rows, label, target
        self.row = rows if row is None else row

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Tensor) -> Batch:
        # index_select copies whole rows: 20 times faster than indexing for images
        rows = self.rows.index_select(0, positions)
        columns = (column.index_select(0, positions).long() for column in (self.label, self.target, self.row))
        return Batch(self.x.index_select(0, rows), *columns)

    def select(self, positions: Tensor) -> Split:
        """The samples at these positions, in this order."""
        return Split(self.x, *(t[positions] for t in (self.rows, self.label, self.target, self.row)))

    def to(self, device: torch.device, moved: dict[int, tuple[Tensor, Tensor]] | None = None) -> Split:
        """A copy on ``device``: batches are then gathered there, and none crosses the bus.

        Args:
            device: Where to.
            moved: Filled with what has moved already. Splits of one data set that are given the same one share the
                samples there as well.
        """
        moved = {} if moved is None else moved
        if id(self.x) not in moved:
            moved[id(self.x)] = self.x, self.x.to(device)  # with the original, so that no other tensor gets its id
        x = moved[id(self.x)][1]
        return Split(x, *(t.to(device) for t in (self.rows, self.label, self.target, self.row)))


class Chain(Dataset):
    """Several splits as one, in order: normal samples of one data set and anomalies of another."""

    def __init__(self, parts: list[Split]) -> None:
        self.parts = [part for part in parts if len(part)]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, positions: Tensor) -> Batch:
        batches, start = [], 0
        for part in self.parts:
            inside = (positions >= start) & (positions < start + len(part))
            batches.append(part[positions[inside] - start])
            start += len(part)
        return Batch(*(torch.cat(columns) for columns in zip(*batches, strict=True)))

    def to(self, device: torch.device, moved: dict[int, tuple[Tensor, Tensor]] | None = None) -> Chain:
        return Chain([part.to(device, moved) for part in self.parts])


class Loader:
    """Yields a split in batches; each process gets its share.

    A training epoch is a permutation drawn from (seed, epoch), of which rank r of R takes every R-th sample. The at
    most R − 1 samples left over are skipped in that epoch, so all ranks take the same number of steps. Without
    ``shuffle`` every sample is used exactly once, and all ranks get the same number of batches. The sizes of a rank's
    batches differ by at most one.

    The position within the epoch is in ``state_dict()``, so a run resumed within an epoch continues at the sample
    where it stopped.

    Args:
        split: What to yield: anything with a length that can be indexed with a tensor of positions.
        batch_size: At most so many samples per batch, on each process.
        shuffle: A new order each epoch.
        seed: Of the order.
        device: Where batches go.
        num_workers: 0 indexes tensors in this process, the fastest way for data in memory. More read ahead with a
            plain DataLoader, for splits whose samples come from disk.
        redraw: What is drawn anew each epoch: (raw samples, a generator on their device) → samples of the same shape.
        orders: Several orders at once, each by how much its seed is larger than ``seed``: each batch holds the batch
            of the first, then that of the second, and so on.
    """

    def __init__(
        self,
        split: Split | Chain,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | None = None,
        num_workers: int = 0,
        redraw: Redraw | None = None,
        orders: Sequence[int] = (0,),
    ) -> None:
        self.split, self.batch_size, self.shuffle = split, batch_size, shuffle
        self.seed, self.num_workers, self.redraw, self.orders = seed, num_workers, redraw, orders
        self.device = device or torch.device("cpu")
        self.epoch = self.position = self._start = 0
        self.sampler, self.batch_sampler = self, None  # Lightning calls set_epoch on a loader's `sampler`
        ranked = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if ranked else (0, 1)
        if len(split) < self.world:
            raise UserError(f"{len(split)} samples are too few for {self.world} processes: use fewer trainer.devices")

    def __len__(self) -> int:
        """Batches an epoch, the same on every rank."""
        share, rest = divmod(len(self.split), self.world)
        return -(-(share + (rest > 0 and not self.shuffle)) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self._start = 0  # a position means something in its own epoch only
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self._start = self.position

    def __iter__(self) -> Iterator[Batch]:
        # only a loaded position is taken up: an epoch left early, as the sanity check leaves it, starts anew
        start, self._start = self._start, 0
        self.position = start
        plan = self._plan()[start:]
        batches: Any = self._gathered(plan)
        if self.num_workers:
            batches = DataLoader(
                self.split,
                sampler=plan,
                batch_size=None,
                num_workers=self.num_workers,
                generator=torch.Generator().manual_seed(self._key()),  # or it would draw from the one that dropout uses
                pin_memory=self.device.type == "cuda",
            )
        for self.position, batch in enumerate(batches, start + 1):
            yield self._finish(batch)

    def _gathered(self, plan: list[Tensor]) -> Iterator[Batch]:
        """The batches at these positions. Several are gathered at once and handed out one by one: that is faster."""
        if not plan or not isinstance(self.split, Split):  # a chain orders each batch by its parts
            yield from map(self.split.__getitem__, plan)
            return
        most = GATHERED if isinstance(self.split.x, Tensor) else FROM_FILE
        at_once = max(1, most // max(1, len(plan[0]) * self.split.x[0].numel()))
        for i in range(0, len(plan), at_once):
            some = plan[i : i + at_once]
            whole = self.split[torch.cat(some)]
            sizes = [len(positions) for positions in some]
            yield from (Batch(*columns) for columns in zip(*(t.split(sizes) for t in whole), strict=True))

    def _plan(self) -> list[Tensor]:
        """The positions of each batch of this rank's epoch."""
        orders = [self._order(later) for later in self.orders]
        return orders[0] if len(orders) == 1 else [torch.cat(batches) for batches in zip(*orders, strict=True)]

    def _order(self, later: int) -> list[Tensor]:
        n = len(self.split)
        order = torch.arange(n)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self._key(later))
            order = torch.randperm(n, generator=generator)[: n - n % self.world]
        share = order[self.rank :: self.world].to(self._index_device)
        return list(share.split(even_batches(len(share), self.batch_size, len(self))))

    def _key(self, later: int = 0) -> int:
        """Of the order of this epoch, for the loader's seed or one that is larger by ``later``."""
        return seed_at(self.seed + later, self.epoch)

    @property
    def _index_device(self) -> torch.device:
        part = self.split.parts[0] if isinstance(self.split, Chain) else self.split
        rows = getattr(part, "rows", None)
        return rows.device if isinstance(rows, Tensor) else torch.device("cpu")

    def _finish(self, batch: Batch) -> Batch:
        """Move the raw samples; draw of them what is drawn anew."""
        if self.device.type == "mps" and batch.x.dtype == torch.float64:
            batch = batch._replace(x=batch.x.float())  # it has no double
        if self.device.type == "cuda" and not batch.x.is_cuda:
            batch = Batch(*(t if t.is_pinned() else t.pin_memory() for t in batch))
        batch = Batch(*(t.to(self.device, non_blocking=True) for t in batch))
        if self.redraw is None:
            return batch
        # a function of the position, so that a resumed run draws what an undisturbed one would have
        generator = torch.Generator(self.device)
        generator.manual_seed(seed_at(self.seed, self.epoch, self.rank, self.position))
        return batch._replace(x=self.redraw(batch.x, generator))


def binarized(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each uint8 pixel of x drawn as 0 or 255 with its grey value, x / 255, for probability."""
    return (torch.rand(x.shape, generator=generator, device=x.device) < x.float() / 255).to(torch.uint8) * 255
