"""A configuration as files that need none of our packages: LightningCLI's YAML, and a script that steps the rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from models import optimizers
from models.config import OWN_OPTIMIZER, TrainConfig
from models.schedules import SCHEDULES, span, step_at

Constants = dict[str, Any]

RESOLVED: Mapping[str, Callable[[Mapping[str, Any], int], Constants]] = {
    "constant": lambda args, total: {},
    "step": lambda args, total: {"every": step_at(args["every"], total), "drop": args["drop"]},
    "multistep": lambda args, total: {
        "milestones": [step_at(share, total) for share in args["milestones"]],
        "drop": args["drop"],
    },
    "exponential": lambda args, total: (
        {"final": args["final"]}
        if args.get("rate") is None
        else {"rate": args["rate"], "decay_steps": args["decay_steps"]}
    ),
    "polynomial": lambda args, total: {"power": args["power"], "final": args["final"]},
    "linear": lambda args, total: {"decay_end": span(args["decay"], total), "final": args["final"]},
    "cosine": lambda args, total: {"final": args["final"]},
    "cosine_restarts": lambda args, total: {
        "restarts": _restarts(args["cycles"], args["growth"], total),
        "final": args["final"],
    },
    "onecycle": lambda args, total: {
        "peak": args["rise"] * total - 1,
        "start": 1 / args["start_div"],
        "end": 1 / (args["start_div"] * args["final_div"]),
    },
    "inverse_sqrt": lambda args, total: {"k": args["k"]},
    "wsd": lambda args, total: {"decay_start": total - span(args["decay"], total), "final": args["final"]},
    "plateau": lambda args, total: {},
    "batch_growth": lambda args, total: {},
}
"""What a schedule's arguments, all of them given, come to in steps of a training of `total` steps."""

COSINE = "FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * {share}))"
FORMULAS: Mapping[str, str] = {
    "constant": "decay = 1.0",
    "step": "decay = DROP ** (t // EVERY)",
    "multistep": "decay = DROP ** sum(t >= milestone for milestone in MILESTONES)",
    "exponential": "decay = FINAL ** (t / TOTAL)",
    "exponential in steps": "decay = RATE ** (t / DECAY_STEPS)",
    "exponential staircase": "decay = RATE ** (t // DECAY_STEPS)",
    "polynomial": "decay = FINAL + (1 - FINAL) * (1 - t / TOTAL) ** POWER",
    "linear": "decay = FINAL + (1 - FINAL) * max(0.0, 1 - t / DECAY_END)",
    "cosine": f"decay = {COSINE.format(share='t / TOTAL')}",
    "cosine_restarts": (
        "start, end = next(pair for pair in zip(RESTARTS, RESTARTS[1:]) if t < pair[1])\n"
        f"decay = {COSINE.format(share='(t - start) / (end - start)')}"
    ),
    "onecycle": (
        "rising = t <= PEAK and PEAK > 0\n"
        "low, share = (START, t / PEAK - 1) if rising else (END, (t - PEAK) / (TOTAL - 1 - PEAK))\n"
        "decay = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))"
    ),
    "inverse_sqrt": "decay = 1 / math.sqrt(1 + K * t / TOTAL)",
    "wsd": "decay = FINAL + (1 - FINAL) * min(1.0, (TOTAL - t) / (TOTAL - DECAY_START))",
    "wsd 1-sqrt": (
        "left = min(1.0, (TOTAL - t) / (TOTAL - DECAY_START))\ndecay = FINAL + (1 - FINAL) * (1 - math.sqrt(1 - left))"
    ),
}
"""The same schedules as `models.schedules` has, for one step at a time, in the standard library's mathematics."""

SCRIPT = '''"""Trains {what} with Lightning alone, from lightning.yaml beside this file: `python train.py`.

Needs torch, {lightning} and jsonargparse[signatures]. Run it where Python finds your own classes; options of
LightningCLI change what lightning.yaml says: `python train.py --trainer.max_steps 10`.
"""

import math
import os
import sys
from pathlib import Path

from {cli} import LightningCLI
from torch.optim.lr_scheduler import LambdaLR

{constants}


def factor(step):
    """Factor on the peak learning rate for an optimizer step, counted from 0."""
    t = min(step, TOTAL - 1)  # the scheduler also asks for the step behind the last one
    {formula}
    return decay * min(1.0, (t + 1) / WARMUP)


class ScheduledCLI(LightningCLI):
    """A LightningCLI whose learning rate follows `factor`, step by step instead of epoch by epoch."""

    @staticmethod
    def configure_optimizers(lightning_module, optimizer, lr_scheduler=None):
        """The optimizer of lightning.yaml with the schedule above."""
        return {{
            "optimizer": optimizer,
            "lr_scheduler": {{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}},
        }}


if __name__ == "__main__":
    sys.path.append(os.getcwd())
    config = Path(__file__).with_name("lightning.yaml")
    ScheduledCLI(
        args=["fit", "--config", str(config), *sys.argv[1:]],
        # The resolved configuration is written with each training, in place of an earlier one.
        save_config_kwargs={{"overwrite": True}},
    )
'''


def in_steps(name: str, args: Mapping[str, Any], *, total: int, warmup: float) -> Constants:
    """A schedule in steps: what its script begins with. `args` are all of its arguments, `warmup` a share."""
    return {"total": total, "warmup": max(1, round(warmup * total)), **RESOLVED[name](args, total)}


def formula(name: str, args: Mapping[str, Any]) -> str:
    """Lines that set `decay` from `t` and the constants of `in_steps`, in capitals."""
    if name == "exponential" and args.get("rate") is not None:
        return FORMULAS["exponential staircase" if args.get("staircase") else "exponential in steps"]
    if name == "wsd" and args["shape"] == "1-sqrt":
        return FORMULAS["wsd 1-sqrt"]
    return FORMULAS[name]


def refusal(config: TrainConfig) -> str | None:
    """Why a configuration cannot be trained by LightningCLI and a formula; None if it can."""
    assert config.schedule in SCHEDULES, f"{config.schedule} is no schedule"
    if config.schedule == "batch_growth":
        return "a loader of Lightning's cannot let the batch grow while it trains; `regatta train` does"
    if config.schedule == "plateau":
        return "`plateau` follows the validation metric, so that its rates have no formula; `regatta train` has them"
    return None


def script(config: TrainConfig, *, what: str, lightning: str, total: int) -> str:
    """The text of `train.py`.

    Args:
        what: the configuration in words, for the first line.
        lightning: the package that the module derives from, `pytorch_lightning` or `lightning.pytorch`.
        total: optimizer steps of the training.
    """
    constants = in_steps(config.schedule, config.schedule_args, total=total, warmup=config.warmup)
    return SCRIPT.format(
        what=what,
        lightning=lightning.partition(".")[0].replace("_", "-"),
        cli=f"{lightning}.cli",
        constants="\n".join(f"{name.upper()} = {value!r}" for name, value in constants.items()),
        formula=formula(config.schedule, config.schedule_args).replace("\n", "\n    "),
    )


def lightning_config(config: TrainConfig, *, lightning: str, total: int, steps_per_epoch: int) -> dict[str, Any]:
    """What `lightning.yaml` holds: seed, Trainer, module, data with their batch size, and the optimizer."""
    data = {"class_path": config.data["class_path"], "init_args": dict(config.data["init_args"])}
    data["init_args"][config.data["batch_size_arg"]] = config.batch_size // config.accumulate
    values: dict[str, Any] = {
        # Lightning takes 32 bits.
        "seed_everything": config.seed_init % 2**32,
        "trainer": _trainer(config, lightning=lightning, total=total, steps_per_epoch=steps_per_epoch),
        "model": {"class_path": config.model["class_path"], "init_args": dict(config.model["init_args"])},
        "data": data,
    }
    if config.optimizer != OWN_OPTIMIZER:
        assert config.learning_rate is not None, "only the module's own optimizer comes without a rate"
        settings = optimizers.torch_arguments(
            config.optimizer,
            config.optimizer_args,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        name = optimizers.OPTIMIZERS[config.optimizer].torch_class
        values["optimizer"] = {"class_path": f"torch.optim.{name}", "init_args": settings}
    return values


def _trainer(config: TrainConfig, *, lightning: str, total: int, steps_per_epoch: int) -> dict[str, Any]:
    best = {"filename": "best", "monitor": config.objective, "mode": config.direction, "save_last": True}
    callbacks = [{"class_path": f"{lightning}.callbacks.ModelCheckpoint", "init_args": best}]
    if config.optimizer != OWN_OPTIMIZER:
        by_step = {"logging_interval": "step"}
        callbacks.append({"class_path": f"{lightning}.callbacks.LearningRateMonitor", "init_args": by_step})
    # Every epoch, if that is how often the search looked; otherwise so many batches apart.
    each_epoch = config.evaluations * steps_per_epoch == total
    interval = max(1, total // config.evaluations) * config.accumulate
    return {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "precision": config.precision,
        "max_epochs": -1,
        "max_steps": total,
        "accumulate_grad_batches": config.accumulate,
        "gradient_clip_val": config.gradient_clip,
        "check_val_every_n_epoch": 1 if each_epoch else None,
        "val_check_interval": 1.0 if each_epoch else interval,
        "log_every_n_steps": 1 if total < 1000 else 50,
        "logger": {"class_path": f"{lightning}.loggers.CSVLogger", "init_args": {"save_dir": "."}},
        "callbacks": callbacks,
    }


def _restarts(cycles: int, growth: int, total: int) -> list[int]:
    ends = [0, *accumulate(growth**cycle for cycle in range(cycles))]
    return [-(-total * end // ends[-1]) for end in ends]
