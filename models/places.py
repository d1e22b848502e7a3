"""Where a training stands in its epochs, told as Lightning's own loops would tell it in an ordinary checkpoint."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.__version__ import version

from models.conductor import Conductor
from models.loaders import OrderedLoader
from models.plan import Plan


def place(plan: Plan, step: int, accumulate: int) -> tuple[int, int]:
    """The epoch in which a training goes on after so many steps, and the batches of it that are behind."""
    epoch = 0
    while epoch < len(plan.steps_of_epoch) - 1 and step >= plan.steps_of_epoch[epoch]:
        step -= plan.steps_of_epoch[epoch]
        epoch += 1
    return epoch, step * accumulate


def solo_loops(trainer: Any, conductor: Conductor, *, epoch: int, batches_done: int, ended: bool) -> dict[str, Any]:
    """Where Lightning's loops would stand if this trial had trained alone, with the rest that a Trainer writes.

    Args:
        trainer: any fresh one: it tells what this version of Lightning keeps.
        epoch: the present one of this member.
        batches_done: of that epoch.
        ended: whether these are all.
    """
    step, loader = conductor.step, conductor.loader
    assert isinstance(loader, OrderedLoader), "what trains side by side lies in memory"
    all_three, four = ("ready", "completed", "started"), ("ready", "completed", "started", "processed")
    steps_before = sum(conductor.plan.steps_of_epoch[:epoch])
    before = sum(loader.batches_in(earlier) for earlier in range(epoch))
    fit = trainer.fit_loop.state_dict()
    finished = conductor.status == "COMPLETE"
    epochs = {"ready": epoch + 1, "completed": epoch + finished, "started": epoch + 1, "processed": epoch + ended}
    fit["epoch_progress"] = {"total": epochs, "current": dict(epochs)}
    fit["epoch_loop.state_dict"] = {"_batches_that_stepped": step - (not ended)}
    fit["epoch_loop.batch_progress"] = {
        "total": dict.fromkeys(four, before + batches_done),
        "current": dict.fromkeys(four, batches_done),
        "is_last_batch": ended,
    }
    counts = {"total": step, "current": step - steps_before}
    fit["epoch_loop.automatic_optimization.optim_progress"] = {
        "optimizer": {
            "step": {span: dict.fromkeys(all_three[:2], count) for span, count in counts.items()},
            "zero_grad": {span: dict.fromkeys(all_three, count) for span, count in counts.items()},
        }
    }
    others = ("validate_loop", "test_loop", "predict_loop")
    return {
        "epoch": epoch + finished,
        "global_step": step,
        "pytorch-lightning_version": version,
        "loops": {"fit_loop": fit} | {name: getattr(trainer, name).state_dict() for name in others},
    }
