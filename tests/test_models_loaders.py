"""Batches: an order of (seed, epoch) alone, from memory the same as from a DataLoader, and data prepared once."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import config_of, train, user_code
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, TensorDataset

from models import prepared, sources
from models.loaders import BatchList, OrderedLoader, permutation
from models.nests import batch_examples
from models.seeds import derive
from models.sources import LoaderBatches, MemoryBatches


@pytest.fixture(autouse=True)
def _nothing_ready() -> Iterator[None]:
    prepared._ready.clear()
    yield
    prepared._ready.clear()


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return user_code(tmp_path, monkeypatch)


def ordered(dataset: Dataset[Any], batch_size: int, *, epoch: int = 0, **changes: Any) -> OrderedLoader:
    source = sources.batches_of(DataLoader(dataset, batch_size))
    settings: dict[str, Any] = {"seed": 5, "shuffle": True, "drop_last": False, **changes}
    loader = OrderedLoader(source, examples=len(dataset), batch_sizes=[batch_size], **settings)  # type: ignore[arg-type]
    loader.current_epoch = lambda: epoch
    return loader


def numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count))


def flat(loader: OrderedLoader) -> list[int]:
    return [int(number) for batch in loader for number in batch[0]]


def test_a_seed_is_the_same_everywhere() -> None:
    assert derive(1, "order", 2) == 3065074137191776962
    assert derive(1, "order", 2) != derive(1, "order", 3)
    assert all(0 <= derive(i) < 2**63 for i in range(100))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = permutation(100, 5, 0)
    torch.manual_seed(9)
    assert torch.equal(first, permutation(100, 5, 0))
    assert sorted(first.tolist()) == list(range(100))
    assert not torch.equal(first, permutation(100, 5, 1)) and not torch.equal(first, permutation(100, 6, 0))


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100])
def test_the_order_is_the_same_for_every_batch_size(batch_size: int) -> None:
    assert flat(ordered(numbers(100), batch_size, epoch=3)) == permutation(100, 5, 3).tolist()


def test_a_loader_without_shuffling_keeps_the_data_sets_order() -> None:
    assert flat(ordered(numbers(10), 4, shuffle=False)) == list(range(10))


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_an_incomplete_last_batch_comes_or_is_dropped(drop_last: bool, sizes: list[int]) -> None:
    loader = ordered(numbers(10), 4, drop_last=drop_last)
    assert [len(batch[0]) for batch in loader] == sizes
    assert len(loader) == len(sizes)
    assert [loader.examples_in(None, index) for index in range(len(sizes))] == sizes


def test_an_epoch_goes_on_behind_the_batches_that_are_done() -> None:
    whole = flat(ordered(numbers(10), 4))
    loader = ordered(numbers(10), 4)
    loader.skip(2)
    assert flat(loader) == whole[8:]
    assert flat(loader) == whole


def test_an_epoch_too_large_to_gather_gives_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [batch[0].tolist() for batch in ordered(numbers(10), 4)]
    monkeypatch.setattr(sources, "GATHER_LIMIT", 0)
    assert [batch[0].tolist() for batch in ordered(numbers(10), 4)] == whole


class Mappings(Dataset[dict[str, Any]]):
    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return self.kind({"x": torch.full((2,), float(index)), "y": (index, index * 0.5)})


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_batches_from_memory_look_as_those_of_a_dataloader(kind: type) -> None:
    dataset = Mappings(kind)
    ours = ordered(dataset, 4, shuffle=False)
    assert isinstance(ours.source, MemoryBatches)
    both: list[tuple[Any, Any]] = list(zip(ours, DataLoader(dataset, 4), strict=True))
    for mine, other in both:
        assert [type(mine), type(other)] == [kind, kind]
        assert type(mine["y"]) is type(other["y"])
        pairs = [(mine["x"], other["x"]), *zip(mine["y"], other["y"], strict=True)]
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
        assert batch_examples(mine) == len(mine["x"])


def test_a_subset_taken_into_memory_holds_its_own_examples_only() -> None:
    assert sorted(flat(ordered(Subset(numbers(10), [1, 3, 5]), 2))) == [1, 3, 5]
    assert sorted(flat(ordered(Subset(Subset(numbers(10), [1, 3, 5]), [0, 2]), 2))) == [1, 5]


def test_what_changes_or_is_too_large_stays_out_of_memory(code: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(sources.batches_of(DataLoader(code.Items(10), 4)), MemoryBatches)
    assert isinstance(sources.batches_of(DataLoader(code.Items(10, noise=0.1), 4)), LoaderBatches)
    assert isinstance(sources.batches_of(DataLoader(numbers(10), 4, collate_fn=list)), LoaderBatches)
    monkeypatch.setattr(sources, "FETCH_LIMIT", -1.0)
    assert isinstance(sources.batches_of(DataLoader(code.Items(10), 4)), LoaderBatches)
    monkeypatch.setattr(sources, "MEMORY_LIMIT", 10)
    assert isinstance(sources.batches_of(DataLoader(numbers(10), 4)), LoaderBatches)


def test_batches_that_are_not_in_memory_draw_nothing_from_the_generator_of_dropout(code: ModuleType) -> None:
    source = LoaderBatches(DataLoader(numbers(10), 4))
    before = torch.get_rng_state()
    assert len(list(source.epoch([torch.arange(4), torch.arange(4, 10)], seed=1))) == 2
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("loader", "ours"),
    [
        (DataLoader(numbers(4), 2), True),
        (DataLoader(numbers(4), 2, shuffle=True, collate_fn=list), True),
        (DataLoader(numbers(4), 2, sampler=RandomSampler(numbers(4), replacement=True)), False),
        (DataLoader(numbers(4), 2, sampler=RandomSampler(numbers(4), num_samples=2)), False),
        (DataLoader(numbers(4), 2, sampler=[3, 1]), False),
        (DataLoader(numbers(4), batch_sampler=[[0, 1], [2]]), False),
        (DataLoader(numbers(4), batch_size=None), False),
        ([torch.zeros(2)], False),
    ],
    ids=str,
)
def test_only_a_plain_loader_is_rebuilt(loader: Any, ours: bool) -> None:
    assert sources.is_ours(loader) is ours


def test_a_module_may_spoil_the_validation_batches_it_gets() -> None:
    batches = BatchList([{"x": torch.ones(2), "y": torch.zeros(2)}])
    for _ in range(2):
        for batch in batches:
            assert batch.pop("x").mul_(5).tolist() == [5.0, 5.0]


def test_a_sampler_of_its_own_is_told_the_epoch(code: ModuleType, tmp_path: Path) -> None:
    code.Remembers.seen.clear()
    result = train(config_of(code, model="Remembers", data="OwnSampler"), tmp_path)
    assert result.status == "COMPLETE", result.reason
    assert result.tags["order"] == "foreign"
    epochs = [code.Remembers.seen[start : start + 13] for start in (0, 13, 26)]
    assert all(one != other for one, other in pairwise(epochs))


def test_data_are_prepared_once_for_each_batch_size(code: ModuleType) -> None:
    first, again = prepared.prepare(config_of(code)), prepared.prepare(config_of(code, seed_init=5))
    assert first is again
    assert prepared.prepare(config_of(code, batch_size=16)) is not first


def test_a_random_split_is_the_same_for_every_trial(code: ModuleType) -> None:
    splits: list[Tensor] = []
    for batch_size in (8, 16):
        torch.manual_seed(batch_size)
        source = prepared.prepare(config_of(code, data="RandomPart", batch_size=batch_size)).source
        assert isinstance(source, MemoryBatches)
        splits.append(source.columns[0])
    assert torch.equal(*splits)
