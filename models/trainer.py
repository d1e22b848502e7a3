"""Lightning's Trainer of a production training: bar, checkpoints, early stopping, and what the command line adds."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from models import checkpoint
from models.build import ConfigError, wrong_arguments
from models.job import BEST, Job
from models.plan import Plan


def build_trainer(job: Job, tree: ModuleType, plan: Plan, folder: Path) -> Any:
    """Lightning's Trainer: its bar, its checkpoint of the best, and whatever the command line passes on.

    Raises:
        ConfigError: if it does not take an argument.
    """
    arguments = _arguments(job, tree, plan, folder)
    wrong = list(wrong_arguments(tree.Trainer, job.trainer, where="trainer"))
    if wrong:
        raise ConfigError("\n".join(wrong))
    refused = importlib.import_module(f"{tree.__name__}.utilities.exceptions").MisconfigurationException
    try:
        return tree.Trainer(**arguments)
    except (ValueError, TypeError, RuntimeError, refused) as error:
        raise ConfigError(f"`--trainer` must be what Lightning's Trainer takes, but it says: {error}") from error


def _arguments(job: Job, tree: ModuleType, plan: Plan, folder: Path) -> dict[str, Any]:
    config = job.config
    return {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "precision": config.precision,
        "max_epochs": len(plan.steps_of_epoch),
        "gradient_clip_val": config.gradient_clip,
        "reload_dataloaders_every_n_epochs": 1 if config.schedule == "batch_growth" else 0,
        "callbacks": [*_callbacks(job, tree, folder), *_bar(job, tree, plan)],
        "plugins": [_checkpoint_plugin(tree)],
        # The curve is written by us and goes to MLflow from there.
        "logger": False,
        "enable_progress_bar": job.progress,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "default_root_dir": str(folder),
        **job.trainer,
    }


def _callbacks(job: Job, tree: ModuleType, folder: Path) -> Iterator[Any]:
    """Nothing is validated where the validation set is trained on: then there is no best, nor a reason to stop."""
    if job.fit == "all":
        return
    watched = {"monitor": job.config.objective, "mode": job.config.direction}
    yield tree.callbacks.ModelCheckpoint(
        dirpath=folder,
        filename=Path(BEST).stem,
        save_top_k=1,
        # At every evaluation, which need not come at the end of an epoch.
        save_on_train_epoch_end=False,
        enable_version_counter=False,
        **watched,
    )
    if job.early_stopping is not None:
        yield tree.callbacks.EarlyStopping(patience=job.early_stopping, check_on_train_epoch_end=False, **watched)


def _bar(job: Job, tree: ModuleType, plan: Plan) -> Iterator[Any]:
    """Lightning's bar, drawn 20 times an epoch, since to draw it at every step takes longer than a small step."""
    if job.progress:
        yield tree.callbacks.RichProgressBar(refresh_rate=max(1, plan.steps_of_epoch[0] // 20))


def _checkpoint_plugin(tree: ModuleType) -> Any:
    """A CheckpointIO that writes atomically and reads data only."""

    def save_checkpoint(_: Any, state: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoint.write(state, str(path))

    def load_checkpoint(_: Any, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return checkpoint.read(str(path), None)

    def remove_checkpoint(_: Any, path: Any) -> None:
        Path(path).unlink(missing_ok=True)

    methods = {f.__name__: f for f in (save_checkpoint, load_checkpoint, remove_checkpoint)}
    return type("ProductionCheckpointIO", (tree.plugins.CheckpointIO,), methods)()
