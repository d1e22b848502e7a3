"""What can be checked of a recipe only with the user's classes in hand: once, on one worker, before the first trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.build import ConfigError
from models.config import OWN_OPTIMIZER, TrainConfig
from models.fingerprint import fingerprint, hardware
from models.prepared import prepare
from models.train import build_module, module_tree
from models.user_code import sources


def check(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Build the data and the module of each configuration (one for every batch size is enough).

    Returns:
        `mistakes`: one sentence each, none twice; and if there are none, `examples` (size of the training set), `order`
        (`own` or `foreign`), `steps` (batch size as a string to optimizer steps of a whole training) and `origin`: what
        the best configuration's file says of data, code and machine.
    """
    mistakes: list[str] = []
    facts: dict[str, Any] = {"steps": {}}
    for values in configs:
        config = TrainConfig.from_json(values)
        try:
            facts |= _facts(config, facts["steps"])
        except ConfigError as error:
            mistakes.extend(str(error).split("\n"))
        except Exception as error:  # The user's constructors may raise anything.
            mistakes.append(f"`model` or `data` could not be built: {type(error).__name__}: {error}")
    if not mistakes and configs:
        facts["origin"] = _origin([TrainConfig.from_json(values) for values in configs])
    return {"mistakes": list(dict.fromkeys(mistakes)), **facts}


def _origin(configs: Sequence[TrainConfig]) -> dict[str, Any]:
    first, *_ = configs
    data = prepare(first)
    return {
        "fingerprint": fingerprint(data),
        "drop_last": data.drop_last,
        "code": sources(tree for config in configs for tree in (config.model, config.data)),
        "lightning": module_tree(first).__name__,
        "hardware": hardware(),
    }


def _facts(config: TrainConfig, steps: dict[str, int]) -> dict[str, Any]:
    tree = module_tree(config)
    data = prepare(config)
    module = build_module(config, data)
    mistakes = list(_missing_methods(module, tree.LightningModule, config))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    plan = data.plan(config)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {
        "examples": data.examples,
        "order": data.order,
        "parameters": parameters,
        "steps": {**steps, str(config.batch_size): plan.total_steps},
    }


def _missing_methods(module: Any, base: type, config: TrainConfig) -> Iterator[str]:
    needed = ["training_step", "validation_step"]
    if config.optimizer == OWN_OPTIMIZER:
        needed.append("configure_optimizers")
    for name in needed:
        if getattr(type(module), name) is getattr(base, name):
            yield f"`model.class_path` must have a `{name}`, but {type(module).__name__} does not."
