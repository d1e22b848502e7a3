"""What a search would have chosen at some time: only what was known by then counts."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tracking.ledger import Ledger

# As a script, `tuning.py` finds these beside it.
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
choices: Any = importlib.import_module("choices")

REGATTA = str(Path(sys.executable).with_name("regatta"))
SMALL = (
    *("search", "--config", "tune", "--study", "small", "--training.epochs", "9", "--training.min_steps", "0"),
    *("--search.batch_sizes", "[128, 256]", "--search.schedules", "[constant, cosine]", "--search.trials", "24"),
    *("--search.promotion.rungs", "1", "--search.probes", "[]", "--tracking.mlflow", "false"),
    *("--tracking.report", "false"),
)


def test_the_best_complete_training_by_then_is_a_peers_choice() -> None:
    told = [
        {"epoch": 2, "at": 1012.0, "value": 0.3, "settings": "first"},
        {"epoch": 1, "at": 1013.0, "value": 0.1, "settings": "on its way"},
        {"epoch": 2, "at": 1018.0, "value": 0.2, "settings": "second"},
    ]
    found = choices.of_peer(told, epochs=2, started=1000.0, seconds=25.0)
    assert [(one.when, one.settings) for one in found] == [(15, "first"), (20, "second"), (25.0, "second")]
    assert choices.times(15.0) == [10, 15.0]


@pytest.mark.slow
def test_regattas_choice_at_the_end_is_what_it_handed_over(tmp_path: Path) -> None:
    environment = {**os.environ, "REGATTA_HOME": str(tmp_path)}
    done = subprocess.run([REGATTA, *SMALL], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "expected on a fresh seed" in done.stdout
    with Ledger.open(tmp_path / "small", create=False) as ledger:
        began = ledger.trials()[0]["asked"]
    *_, last = choices.of_regatta(tmp_path / "small", started=began, seconds=100_000.0)
    bundle = yaml.safe_load((tmp_path / "small" / "best.yaml").read_text(encoding="utf-8"))
    assert last.settings == {
        "batch_size": bundle["batch"]["size"],
        "schedule": bundle["schedule"]["name"],
        "learning_rate": bundle["optimizer"]["learning_rate"],
    }
    # Before its first training had ended, it had none.
    assert list(choices.of_regatta(tmp_path / "small", started=began - 1e6, seconds=100.0)) == []
