"""Batch sizes that do not fit into memory are left out before the first trial, or trained in parts."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from search_parts import result_of, space

from models.config import ClassConfig, DataConfig
from models.footprint import resident
from search.executors import SerialExecutor
from search.room import look
from search.study import Study

SIZES = (4, 8, 16, 32)


class Confined(SerialExecutor):
    """May take so many bytes beyond what this process has taken already."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.called: list[int] = []
        """Batch sizes that something was asked about."""

    @property
    def share(self) -> int:  # type: ignore[override]
        """With the 5 % that stay free."""
        return int((resident("VmRSS") + self.room) / 0.95)

    def call(self, function: str, payload: Any) -> Any:
        """Call it here, and note about which batch size."""
        train = payload["config"]
        self.called.append(train["batch_size"] // train["accumulate"])
        return super().call(function, payload)


def study(model: str = "Keeping", **search: Any) -> Study:
    """Of a model that keeps 16 MB an example, and takes two or three times as much."""
    init_args = {"mebibytes": 16} if model == "Keeping" else {}
    made = space(batch_sizes=SIZES, **search)
    return Study(
        dataclasses.replace(
            made,
            model=ClassConfig(class_path=f"hungry.{model}", init_args=init_args),
            data=DataConfig(class_path="hungry.Sixty"),
        )
    )


def left(made: Study) -> list[int]:
    """Batch sizes of which trials are asked."""
    return [size for size in SIZES if not made.is_closed(size)]


def test_where_there_is_room_for_more_than_is_foreseen_nothing_is_tried() -> None:
    made, executor = study(), Confined(8 << 30)
    assert list(look(made, executor, per_gpu=1)) == []
    assert executor.called == [32] and left(made) == [*SIZES] and made.too_large is None


def test_where_nothing_is_foreseen_and_where_there_is_nothing_to_leave_out_trials_find_out() -> None:
    made, executor = study("Asking"), Confined(0)
    assert list(look(made, executor, per_gpu=1)) == [] and left(made) == [*SIZES]
    only = Study(space(batch_sizes=(64,)))
    assert list(look(only, executor, per_gpu=1)) == [] and executor.called == [32]


@pytest.mark.slow
def test_sizes_that_do_not_fit_are_left_out_and_smaller_ones_are_kept() -> None:
    # 32 and 16 are in doubt; 8, which is foreseen to take 128 MB and may take twice that, is not.
    made, executor = study(), Confined(300 << 20)
    told = list(look(made, executor, per_gpu=1))
    assert executor.called == [32, 32, 16] and left(made) == [4, 8] and made.too_large == 16
    assert [sentence.partition(" does")[0] for sentence in told] == ["batch size 32", "batch size 16"]
    # The room given, in a process that goes on growing meanwhile.
    assert re.search(r"with 32 examples at once \(0\.3\d GB of a worker's .* are free\)", told[0])
    assert "search.accumulate: true" in told[0]
    assert all(trial.train.batch_size < 16 for _ in range(40) if (trial := made.ask()) is not None)


@pytest.mark.slow
def test_the_smallest_size_stays_and_its_trials_tell() -> None:
    made = study()
    assert len(list(look(made, Confined(20 << 20), per_gpu=1))) == 3
    assert left(made) == [4]


@pytest.mark.slow
def test_what_is_trained_in_parts_keeps_every_size() -> None:
    made, executor = study(accumulate=True), Confined(300 << 20)
    (told,) = look(made, executor, per_gpu=1)
    assert executor.called == [32, 32, 16] and left(made) == [*SIZES] and made.most == 8
    assert "trials train in parts of at most 8 examples" in told
    asked = [trial.train for _ in range(16) if (trial := made.ask()) is not None]
    assert {train.batch_size // train.accumulate for train in asked} == {4, 8}
    # What is known is not tried again.
    assert list(look(made, executor, per_gpu=1)) == [] and executor.called[3:] == [32]


@pytest.mark.slow
def test_a_size_that_has_trained_to_its_end_fits() -> None:
    made, executor = study(), Confined(300 << 20)
    while (trial := made.ask()) is not None and trial.train.batch_size != 32:
        pass
    assert trial is not None
    made.tell(trial, result_of(trial, 1.0))
    assert list(look(made, executor, per_gpu=1)) == [] and executor.called == [32]
