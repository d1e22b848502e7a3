"""The width of arrays is chosen by what a member's step takes, and by what fits into memory."""

from __future__ import annotations

import dataclasses
import math
import platform
from pathlib import Path

import pytest
from search_parts import space

from models.config import TrainConfig
from models.memory import keep_freed_memory
from models.probes import array_gain, best_width, highest_gain, member_bytes, memory_left
from search.study import Study


def config(batch_size: int = 64) -> TrainConfig:
    study = Study(space(batch_sizes=(batch_size,)))
    return study.space.train_config(next(iter(study.cells.values())).cell, {"learning_rate": 0.1}, index=0)


@pytest.mark.parametrize(
    ("alone", "shares", "most", "expected"),
    [
        (9.0, {16: 1.0, 32: 0.8, 64: 0.7, 128: 0.69}, 200, 64),  # Wider as long as it pays.
        (9.0, {16: 1.0, 32: 0.8}, 40, 32),
        (9.0, {16: 1.0, 32: 0.93}, 200, 32),  # The next doubling would bring half of that: it is not even tried.
        (9.0, {16: 1.0, 32: 0.99}, 100, 16),
        (3.0, {16: 1.0}, 100, 16),  # Most of it depends on the width, and it is well ahead: nothing else is tried.
        (1.5, {16: 1.0, 8: 0.8, 4: 0.7, 2: 0.9}, 100, 4),
        (1.5, {10: 1.0, 5: 2.0}, 10, 10),
        (9.0, {2: 1.0}, 2, 2),
        (1.0, {2: 1.0}, 2, 2),
    ],
)
def test_the_width_is_the_fastest_of_doublings_and_halvings(
    alone: float, shares: dict[int, float], most: int, expected: int
) -> None:
    assert best_width(shares.__getitem__, most=most, alone=alone) == (expected, shares[expected])


def test_what_a_member_keeps_for_its_backward_pass_grows_with_its_batch() -> None:
    small, large = (member_bytes(config(size)) for size in (64, 512))
    network = config().model["init_args"]["network"]["init_args"]
    weights = 4 * (network["features"] * 8 + 8 + 8 * 10 + 10)
    assert small > 4 * weights
    # Inputs of 64 features, 8 hidden ones, 10 classes twice: at least so many more numbers of 4 bytes are kept.
    assert large - small >= 4 * (512 - 64) * (8 + 10)


def test_double_precision_takes_more_memory() -> None:
    assert member_bytes(dataclasses.replace(config(), precision="64-true")) > 1.5 * member_bytes(config())


def test_there_is_memory_left_here() -> None:
    assert memory_left(config()) > 1e6


def test_a_trial_that_fits_only_once_trains_alone_and_says_so() -> None:
    gain = array_gain({"config": config().to_json(), "most": 1})
    assert (gain["width"], gain["reason"]) == (1, "two of it do not fit into memory side by side")


def test_no_array_is_tried_that_could_not_be_worth_it() -> None:
    told = array_gain({"config": config().to_json(), "most": 16, "fixed_seconds": 1e-9, "worth": 1.5})
    assert (told["width"], told["share_seconds"]) == (1, 0.0) and told["step_seconds"] > 0
    assert told["reason"] == "side by side could be 1.0 times as fast, at most"
    assert array_gain({"config": config().to_json(), "most": 16, "fixed_seconds": 1e9, "worth": 1.5})["width"] > 1


@pytest.mark.parametrize(("alone", "fixed", "expected"), [(4.0, 1.0, 4 / 3), (4.0, 3.0, 4.0), (4.0, 4.0, math.inf)])
def test_an_array_can_share_no_more_than_what_is_fixed(alone: float, fixed: float, expected: float) -> None:
    assert highest_gain(alone, fixed) == pytest.approx(expected)


def test_measuring_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert array_gain({"config": config().to_json(), "most": 4})["width"] > 1
    assert not list(tmp_path.rglob("*.ckpt"))


def test_freed_memory_is_kept_wherever_the_allocator_is_glibcs() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
