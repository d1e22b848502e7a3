"""The test split of a finished training, with modules and datamodules as a user would write them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import config_of, train, user_code, weights_of
from torch.nn import functional

from models import testing
from models.config import TrainConfig
from models.segment import SegmentResult

TESTS = '''

class Tested(Net):
    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch), batch_size=len(batch[0]))


class SaysNothing(Net):
    def test_step(self, batch, batch_idx):
        pass


class TestData(Transfers):
    def test_dataloader(self):
        return DataLoader(TensorDataset(*examples(30, seed=2)), 16)


class DrawnSplit(Data):
    """Splits from the global generator, as most people do."""

    def setup(self, stage):
        self.train_part, self.test_part = random_split(super().train_data(), [0.8, 0.2])

    def train_data(self):
        return self.train_part

    def test_dataloader(self):
        assert not set(self.train_part.indices) & set(self.test_part.indices)
        return DataLoader(self.test_part, 16)


class Empty(Data):
    def test_dataloader(self):
        return []
'''


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = user_code(tmp_path, monkeypatch)
    exec(compile(TESTS, "tests of the user", "exec"), vars(found))
    return found


def asked(config: TrainConfig, result: SegmentResult, **changes: Any) -> dict[str, Any]:
    known = {"config": config.to_json(), "checkpoint": result.checkpoint, "sha256": result.sha256}
    return testing.test({**known, **changes})


def test_it_gives_what_the_test_step_logs_of_the_trained_weights(code: ModuleType, tmp_path: Path) -> None:
    config = config_of(code, model="Tested", data="TestData")
    result = train(config, tmp_path)
    found = asked(config, result)
    assert found["reason"] is None and found["metrics"].keys() == {"test_loss"}
    module = code.Tested()
    module.load_state_dict(weights_of(result))
    module.eval()
    inputs, labels = code.examples(30, seed=2)
    # The datamodule halves what it trains on, and that alone.
    with torch.no_grad():
        expected = functional.cross_entropy(module.net(inputs), labels).item()
    assert found["metrics"]["test_loss"] == pytest.approx(expected, rel=1e-6)
    assert asked(config, result) == found


def test_a_split_that_is_drawn_at_random_is_the_one_of_the_training(code: ModuleType, tmp_path: Path) -> None:
    config = config_of(code, model="Tested", data="DrawnSplit")
    result = train(config, tmp_path)
    trained_on = {tuple(row) for row in code.examples()[0].tolist()}
    seen: list[tuple[float, ...]] = []
    code.Tested.on_test_batch_start = lambda self, batch, index: seen.extend(map(tuple, batch[0].tolist()))
    assert asked(config, result)["reason"] is None
    code.Remembers.seen.clear()
    train(config_of(code, model="Remembers", data="DrawnSplit"), tmp_path)
    firsts = {first for batch in code.Remembers.seen for first in batch}
    assert len(seen) == 20 and set(seen) <= trained_on
    assert not firsts & {row[0] for row in seen}


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        ("Net", "TestData", "Net has no `test_step`"),
        ("Tested", "Data", "Data has no `test_dataloader`"),
        ("Tested", "Empty", "there is no test split: the `test_dataloader` of Empty gives no batches"),
        ("SaysNothing", "TestData", "the `test_step` of SaysNothing logs nothing"),
    ],
)
def test_what_cannot_be_tested_says_why(code: ModuleType, tmp_path: Path, model: str, data: str, reason: str) -> None:
    config = config_of(code, model=model, data=data, epochs=1, evaluations=1)
    assert asked(config, train(config, tmp_path)) == {"metrics": {}, "reason": reason}


def test_a_checkpoint_that_is_gone_or_another_one_is_told(code: ModuleType, tmp_path: Path) -> None:
    config = config_of(code, model="Tested", data="TestData", epochs=1, evaluations=1)
    result = train(config, tmp_path)
    assert "its SHA-256 differs" in asked(config, result, sha256="0" * 64)["reason"]
    assert "cannot be read" in asked(config, result, checkpoint=str(tmp_path / "none.ckpt"))["reason"]


def test_double_precision_is_tested_in_double_precision(tmp_path: Path, code: ModuleType) -> None:
    config = config_of(code, model="Tested", data="TestData", precision="64-true", epochs=1, evaluations=1)
    found = asked(config, train(config, tmp_path))
    assert found["reason"] is None and found["metrics"]["test_loss"] > 0
