"""The test split, looked at once: what a finished training logs of it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from models import checkpoint, rng
from models.build import ConfigError, lightning_of
from models.config import TrainConfig
from models.frozen import told
from models.prepared import SPLIT_SEED, build_datamodule, own_hooks, prepare
from models.train import build_module, module_tree, one_process


def test(values: Mapping[str, Any]) -> dict[str, Any]:
    """Run Lightning's `Trainer.test` with the weights of a checkpoint.

    Args:
        values: `config` (`TrainConfig.to_json()`), `checkpoint` (path or fsspec URL) and `sha256` (None: not checked).

    Returns:
        `metrics`: what `test_step` logged, by name; `reason`: why there are none, or None.
    """
    try:
        return {"metrics": _logged(TrainConfig.from_json(values["config"]), values), "reason": None}
    except Exception as error:  # A user's code may raise anything.
        return {"metrics": {}, "reason": told(error)}


def _logged(config: TrainConfig, values: Mapping[str, Any]) -> dict[str, float]:
    tree = module_tree(config)
    state = checkpoint.read(values["checkpoint"], values["sha256"])
    # As in training, so that a split which is drawn in `setup` comes out the same.
    rng.seed_everything(SPLIT_SEED)
    datamodule = build_datamodule(config.data, batch_size=config.batch_size // config.accumulate)
    datamodule.prepare_data()
    datamodule.setup("test")
    loaders = _loaders(datamodule)
    module = build_module(config, replace(prepare(config), hooks=own_hooks(datamodule)))
    if type(module).test_step is tree.LightningModule.test_step:
        raise ConfigError(f"{type(module).__name__} has no `test_step`")
    module.load_state_dict(state["state_dict"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\.")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
        datamodule.trainer = trainer = _trainer(config, tree)  # Its transfer hooks may ask whether this is testing.
        found = trainer.test(module, loaders, verbose=False)
    datamodule.teardown("test")
    metrics = {name: float(value) for of_loader in found for name, value in of_loader.items()}
    if not metrics:
        raise ConfigError(f"the `test_step` of {type(module).__name__} logs nothing")
    return metrics


def _loaders(datamodule: Any) -> Any:
    name = type(datamodule).__name__
    base = lightning_of(type(datamodule), base="LightningDataModule", where="data.class_path").LightningDataModule
    if type(datamodule).test_dataloader is base.test_dataloader:
        raise ConfigError(f"{name} has no `test_dataloader`")
    loaders = datamodule.test_dataloader()
    if loaders is None or (isinstance(loaders, list | tuple) and not loaders):
        raise ConfigError(f"there is no test split: the `test_dataloader` of {name} gives no batches")
    return loaders


def _trainer(config: TrainConfig, tree: ModuleType) -> Any:
    return tree.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        precision=config.precision,
        plugins=[one_process(tree)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tempfile.gettempdir(),
    )
