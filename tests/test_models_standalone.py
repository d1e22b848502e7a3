"""A configuration without our packages: the formula of its schedule, LightningCLI's YAML, and the script that runs."""

from __future__ import annotations

import ast
import csv
import importlib.util
import math
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import USER_CODE, config_of, user_code

from models import schedules, standalone
from models.config import TrainConfig
from pipelines.bundling import full_arguments

TOTALS = (3, 39, 345, 1999)
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in schedules.SCHEDULES if name not in ("plateau", "batch_growth")),
    ("step", {"every": 0.21, "drop": 0.5}),
    ("multistep", {"milestones": [0.55, 0.9]}),
    ("exponential", {"rate": 0.9, "decay_steps": 7}),
    ("exponential", {"rate": 0.9, "decay_steps": 7, "staircase": True}),
    ("linear", {"decay": 0.3, "final": 0.1}),
    ("cosine_restarts", {"cycles": 4, "growth": 1, "final": 0.2}),
    ("onecycle", {"rise": 0.001}),
    ("wsd", {"shape": "1-sqrt", "decay": 0.37}),
]


def config(code: Any, schedule: str, args: dict[str, Any], **changes: Any) -> TrainConfig:
    made = config_of(code, schedule=schedule, schedule_args=args, **changes)
    return config_of(code, schedule=schedule, schedule_args=full_arguments(made), **changes)


def factor_of(text: str) -> Callable[[int], float]:
    """The script's own `factor`, with its constants and nothing else of the script."""
    tree = ast.parse(text)
    kept: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.Assign | ast.FunctionDef)]
    names: dict[str, Any] = {"math": math}
    exec(compile(ast.Module(kept, []), "train.py", "exec"), names)
    found: Callable[[int], float] = names["factor"]
    return found


@pytest.mark.parametrize(("schedule", "args"), CASES, ids=lambda case: str(case))
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_written_formula_is_the_schedule(
    schedule: str, args: dict[str, Any], warmup: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(user_code(tmp_path, monkeypatch), schedule, args, warmup=warmup)
    for total in TOTALS:
        text = standalone.script(made, what="a test", lightning="pytorch_lightning", total=total)
        factor = factor_of(text)
        expected = schedules.factors(schedule, args, steps=total, warmup=warmup)
        assert [factor(step) for step in range(total)] == pytest.approx(expected.tolist(), rel=1e-12, abs=1e-12)
        # The scheduler asks once more than there are steps.
        assert math.isfinite(factor(total))
        assert len(text.splitlines()) <= 80 and max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("schedule", "words"), [("batch_growth", "batch grow"), ("plateau", "no formula"), ("wsd", None)]
)
def test_what_cannot_be_written_down_is_refused_with_a_reason(
    schedule: str, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = standalone.refusal(config(user_code(tmp_path, monkeypatch), schedule, {}))
    assert (why is None) if words is None else (words in str(why))


def test_every_schedule_is_told_in_steps() -> None:
    assert standalone.in_steps("wsd", {"decay": 0.2, "final": 0.0, "shape": "linear"}, total=345, warmup=0.02) == {
        "total": 345,
        "warmup": 7,
        "decay_start": 276.0,
        "final": 0.0,
    }
    assert standalone.in_steps("multistep", {"milestones": [0.5, 0.75], "drop": 0.1}, total=10, warmup=0)[
        "milestones"
    ] == [5, 8]
    assert set(standalone.RESOLVED) == set(schedules.SCHEDULES)


def test_the_yaml_holds_the_whole_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(
        user_code(tmp_path, monkeypatch),
        "cosine",
        {},
        optimizer="adamw",
        batch_size=16,
        accumulate=2,
        gradient_clip=1.0,
        evaluations=2,
    )
    values = standalone.lightning_config(made, lightning="lightning.pytorch", total=39, steps_per_epoch=13)
    assert values["optimizer"] == {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": 0.05, "weight_decay": 0.0, "eps": 1e-8, "betas": (0.9, 0.999)},
    }
    trainer = values["trainer"]
    assert (trainer["max_steps"], trainer["accumulate_grad_batches"], trainer["gradient_clip_val"]) == (39, 2, 1.0)
    # Two evaluations in 39 steps of two batches: not at the ends of epochs.
    assert (trainer["check_val_every_n_epoch"], trainer["val_check_interval"]) == (None, 38)
    assert values["data"]["init_args"] == {"batch_size": 8}
    own = config(user_code(tmp_path, monkeypatch), "constant", {}, optimizer="own", learning_rate=None)
    assert "optimizer" not in standalone.lightning_config(own, lightning="x", total=39, steps_per_epoch=13)


def test_only_the_batch_size_that_the_datamodule_takes_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    made = config(code, "constant", {}, data="OtherName", batch_size_arg="examples_per_step")
    values = standalone.lightning_config(made, lightning="x", total=39, steps_per_epoch=13)
    assert values["data"]["init_args"] == {"examples_per_step": 8}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("docstring_parser") is None, reason="LightningCLI needs jsonargparse[signatures]"
)
@pytest.mark.parametrize(("schedule", "lightning"), [("cosine", "pytorch_lightning"), ("wsd", "lightning.pytorch")])
def test_the_script_takes_the_same_steps_at_the_same_rates_where_our_packages_are_missing(
    schedule: str, lightning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(user_code(tmp_path, monkeypatch), schedule, {}, accumulate=2)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "mine.py").write_text(USER_CODE.replace("LIGHTNING", lightning))
    values = standalone.lightning_config(made, lightning=lightning, total=39, steps_per_epoch=13)
    for part in ("model", "data"):
        values[part]["class_path"] = f"mine.{values[part]['class_path'].rpartition('.')[2]}"
    (theirs / "lightning.yaml").write_text(yaml.safe_dump(values))
    (theirs / "train.py").write_text(standalone.script(made, what="a test", lightning=lightning, total=39))
    assert "No module named 'search'" in alone("-c", "import search", cwd=theirs).stderr
    done = alone("train.py", cwd=theirs)
    assert done.returncode == 0, done.stderr
    with (theirs / "lightning_logs" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        # One row for every forward pass.
        by_step = {int(row["step"]): float(row["lr-SGD"]) for row in csv.DictReader(file) if row.get("lr-SGD")}
    expected = 0.05 * schedules.factors(schedule, {}, steps=39, warmup=0.1)
    assert list(by_step.values()) == pytest.approx(expected.tolist(), abs=1e-7)


def alone(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python with the installed libraries, but without the `.pth` file that leads to ours."""
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"]}
    return subprocess.run(
        [sys.executable, "-S", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
