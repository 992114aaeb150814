"""The loader: each sample once, in an order that is a function of (seed, epoch), from any point on, on any rank."""

from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from vae_lightning.batch import even_batches
from vae_lightning.data import Batch, Loader
from vae_lightning.data.loader import Chain, Split
from vae_lightning.errors import UserError


def numbered(n: int, first: int = 0) -> Split:
    """Samples n to be told apart by their target, stored in reverse order."""
    x = (torch.arange(first, first + n).flip(0)[:, None, None] % 256).to(torch.uint8).expand(n, 2, 2).contiguous()
    number = torch.arange(first, first + n)
    return Split(x, torch.arange(n).flip(0), number % 2, number, 1000 + number)


def targets(batches: list[Batch]) -> list[list[int]]:
    return [batch.target.tolist() for batch in batches]


def flat(batches: list[Batch]) -> list[int]:
    return [number for batch in targets(batches) for number in batch]


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(torch.equal(s, t) for s, t in zip(chain(*a), chain(*b), strict=True))


def shared(n: int, world: int, **kwargs: int | bool) -> list[Loader]:
    loaders = [Loader(numbered(n), **kwargs) for _ in range(world)]  # type: ignore[arg-type]
    for rank, loader in enumerate(loaders):
        loader.rank, loader.world = rank, world
    return loaders


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16, torch.int64])
def test_batches_are_raw(dtype: torch.dtype) -> None:
    split = numbered(256)
    split.x = split.x.to(dtype)
    batch = next(iter(Loader(split, 100)))
    assert batch.x.dtype == dtype
    assert batch.label.dtype == batch.target.dtype == batch.row.dtype == torch.int64
    assert torch.equal(batch.x, batch.target[:, None, None].expand(-1, 2, 2).to(dtype))
    assert torch.equal(batch.label, batch.target % 2)
    assert torch.equal(batch.row, batch.target + 1000)


def test_a_row_is_the_sample_s_own_unless_the_split_says_otherwise() -> None:
    part = numbered(10)
    split = Split(part.x, torch.tensor([7, 2]), part.label[:2], part.target[:2])
    assert split[torch.tensor([1, 0])].row.tolist() == [2, 7]
    assert split.select(torch.tensor([1]))[torch.tensor([0])].row.tolist() == [2]


@pytest.mark.parametrize("n", [0, 1, 5, 12, 13, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 12, 1000])
def test_batches_are_as_even_as_can_be(n: int, batch_size: int) -> None:
    sizes = even_batches(n, batch_size)
    assert sum(sizes) == n
    assert len(sizes) == -(-n // batch_size)
    assert sizes == sorted(sizes, reverse=True)
    assert not sizes or (max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1)
    if sizes:
        assert sizes == [len(batch.x) for batch in Loader(numbered(n), batch_size)]
        more = even_batches(n, batch_size, len(sizes) + 1)
        assert (len(more), sum(more)) == (len(sizes) + 1, n)


def test_splits_of_one_data_set_share_its_memory() -> None:
    part = numbered(10)
    assert Split(part.x, torch.arange(3), part.label[:3], part.target[:3]).x.data_ptr() == part.x.data_ptr()


def test_without_shuffle_the_order_is_that_of_the_split() -> None:
    loader = Loader(numbered(10), 4)
    assert [len(t) for t in targets(list(loader))] == [4, 3, 3]
    assert flat(list(loader)) == list(range(10))


@pytest.mark.parametrize(("n", "batch_size"), [(100, 32), (97, 32), (97, 1), (3, 8), (32, 32), (33, 32)])
def test_a_shuffled_epoch_holds_each_sample_once(n: int, batch_size: int) -> None:
    loader = Loader(numbered(n), batch_size, shuffle=True)
    batches = list(loader)
    assert sorted(flat(batches)) == list(range(n))
    assert len(loader) == len(batches) == -(-n // batch_size)
    sizes = [len(batch.x) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1  # no last batch of a single sample, which batch norm could not train on


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        loader = Loader(numbered(100), 8, shuffle=True, seed=seed)
        loader.set_epoch(epoch)
        return flat(list(loader))

    orders = [order(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 9
    torch.manual_seed(99)  # the global generator has no say
    assert [order(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)] == orders
    assert torch.initial_seed() == 99
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(99).get_state())


def test_an_order_is_uniform() -> None:
    """Over 2,000 epochs each of 5 samples is first about 400 times: χ² with 4 degrees of freedom, p > 0.001."""
    loader, counts = Loader(numbered(5), 1, shuffle=True), [0] * 5
    for epoch in range(2000):
        loader.set_epoch(epoch)
        counts[flat([next(iter(loader))])[0]] += 1
    assert sum((count - 400) ** 2 / 400 for count in counts) < 18.5


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fresh_loader_takes_up_where_the_state_says(shuffle: bool, num_workers: int) -> None:
    def fresh() -> Loader:
        loader = Loader(numbered(50), 8, shuffle=shuffle, seed=3, num_workers=num_workers)
        loader.set_epoch(4)
        return loader

    whole = list(fresh())
    for stop in (0, 3, len(whole) - 1) if num_workers else range(len(whole)):
        loader = fresh()
        batches = iter(loader)
        taken = [next(batches) for _ in range(stop)]
        state = loader.state_dict()
        resumed = fresh()
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert equal(taken + list(resumed), whole)
        resumed.set_epoch(5)
        assert sorted(flat(list(resumed))) == list(range(50))  # and the next epoch is whole again


def test_the_state_at_the_end_of_an_epoch_is_a_whole_new_epoch() -> None:
    loader = Loader(numbered(50), 8, shuffle=True)
    list(loader)
    resumed = Loader(numbered(50), 8, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(1)
    assert sorted(flat(list(resumed))) == list(range(50))


def test_a_loaded_position_does_not_outlive_its_epoch() -> None:
    """An epoch cut short by limit_train_batches ends at a position that the next epoch knows nothing of."""
    loader = Loader(numbered(50), 8, shuffle=True)
    batches = iter(loader)
    next(batches), next(batches)
    resumed = Loader(numbered(50), 8, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(1)
    assert sorted(flat(list(resumed))) == list(range(50))


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_left_early_starts_anew(shuffle: bool) -> None:
    """As the sanity check leaves the validation loader, and limit_train_batches the training loader."""
    loader = Loader(numbered(50), 8, shuffle=shuffle)
    whole = list(loader)
    batches = iter(loader)
    next(batches), next(batches)
    assert equal(list(loader), whole)


@pytest.mark.parametrize("shuffle", [True, False])
def test_worker_processes_give_the_same_batches(shuffle: bool) -> None:
    kwargs = {"shuffle": shuffle, "seed": 5}
    here, there = (Loader(numbered(40), 16, num_workers=n, **kwargs) for n in (0, 2))  # type: ignore[arg-type]
    assert equal(list(here), list(there))
    assert len(here) == len(there)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [4, 5, 7, 11, 24, 25])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 100])
def test_evaluation_shards_are_a_partition_into_equally_many_batches(world: int, n: int, batch_size: int) -> None:
    shards = [list(loader) for loader in shared(n, world, batch_size=batch_size)]
    assert sorted(number for shard in shards for number in flat(shard)) == list(
        range(n)
    )  # nothing padded, nothing double
    assert len({len(batches) for batches in shards}) == 1
    for loader, batches in zip(shared(n, world, batch_size=batch_size), shards, strict=True):
        assert len(loader) == len(batches)
        sizes = [len(batch.x) for batch in batches]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("n", [24, 25, 26])
def test_training_shards_take_equally_many_steps_and_overlap_nowhere(world: int, n: int) -> None:
    seen = set()
    for epoch in range(3):
        loaders = shared(n, world, batch_size=4, shuffle=True)
        for loader in loaders:
            loader.set_epoch(epoch)
        shards = [flat(list(loader)) for loader in loaders]
        assert [len(shard) for shard in shards] == [n // world] * world
        assert len(set(chain.from_iterable(shards))) == n - n % world
        assert len({len(loader) for loader in loaders}) == 1
        seen |= set(chain.from_iterable(shards))
    assert seen == set(range(n))  # who sits out changes from epoch to epoch


def _of_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    numbers = flat(list(Loader(numbered(11), 4)))
    message = ""
    try:
        Loader(numbered(1), 4)
    except UserError as error:
        message = str(error)
    torch.save((numbers, message), folder / f"{rank}.pt")
    dist.barrier()  # neither leaves before both have met
    dist.destroy_process_group()


def test_two_processes_share_a_split(tmp_path: Path) -> None:
    mp.start_processes(_of_rank, (tmp_path,), nprocs=2, start_method="fork")
    (first, message), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (len(first), len(second)) == (6, 5)
    assert sorted(first + second) == list(range(11))
    assert "1 samples are too few for 2 processes" in message


@pytest.mark.parametrize("sizes", [(5, 7), (0, 7), (5, 0), (1, 1, 10)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_chain_is_the_concatenation_of_its_parts(sizes: tuple[int, ...], shuffle: bool) -> None:
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    joined = Chain([numbered(n, first) for n, first in zip(sizes, firsts, strict=True)])
    whole = numbered(sum(sizes))
    assert len(joined) == len(whole)
    positions = torch.arange(len(whole))
    assert all(torch.equal(a, b) for a, b in zip(joined[positions], whole[positions], strict=True))
    chained, plain = (list(Loader(split, 4, shuffle=shuffle)) for split in (joined, whole))
    if shuffle:  # within a batch a chain goes part by part
        chained, plain = ([_sorted(batch) for batch in batches] for batches in (chained, plain))
    assert equal(chained, plain)


def _sorted(batch: Batch) -> Batch:
    order: Tensor = batch.target.argsort()
    return Batch(*(column[order] for column in batch))


def test_a_split_moves_to_a_device_whole() -> None:
    split = Chain([numbered(3), numbered(4, 3)])
    moved = split.to(torch.device("cpu"))
    assert equal(list(Loader(moved, 2)), list(Loader(split, 2)))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match="0 samples are too few"):
        Loader(numbered(0), 4)
