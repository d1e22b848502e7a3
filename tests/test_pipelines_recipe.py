"""A recipe is read, overridden, checked and written; what is wrong with it is told at once, one sentence each."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest

from models.config import ClassConfig, DataConfig
from pipelines.recipe import Recipe, RecipeError, from_yaml_text, load_recipe, to_yaml
from pipelines.recipe_file import ready_recipes
from pipelines.yaml_source import read_yaml

SOUND = """\
name: sound
model:
  class_path: models.task.Classifier
  init_args:
    network: {class_path: models.nets.MLP, init_args: {features: 64}}
data: {class_path: models.data.Digits}
"""
"""Six lines: what a test adds begins on line 7."""


def mistakes(text: str) -> list[str]:
    """What `from_yaml_text` says is wrong."""
    with pytest.raises(RecipeError) as raised:
        from_yaml_text(text, "r.yaml")
    return list(raised.value.mistakes)


def loaded(tmp_path: Path, *argv: str, text: str = SOUND) -> Recipe:
    """The recipe of a file and overrides."""
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(["--config", str(path), *argv])


def refused(tmp_path: Path, *argv: str, text: str = SOUND) -> list[str]:
    """What is wrong with a file and overrides."""
    with pytest.raises(RecipeError) as raised:
        loaded(tmp_path, *argv, text=text)
    return [mistake.replace(f"{tmp_path}/", "") for mistake in raised.value.mistakes]


def test_a_recipe_needs_a_name_a_model_and_data_and_nothing_else() -> None:
    recipe = from_yaml_text(SOUND, "r.yaml")
    assert recipe.model == ClassConfig(
        class_path="models.task.Classifier",
        init_args={"network": {"class_path": "models.nets.MLP", "init_args": {"features": 64}}},
    )
    assert recipe.data == DataConfig(class_path="models.data.Digits")
    assert recipe == Recipe(name="sound", model=recipe.model, data=recipe.data)
    assert recipe.study_name == "sound"


ADDED = [
    # Keys.
    (
        "search: {trails: 3}",
        7,
        "unknown key `trails` in `search`; did you mean `trials`? Known: strategy, batch_sizes,",
    ),
    ("search: {enqueue: [{}]}", 7, "`search.enqueue` must be left out with the strategy compare. Set `search.strategy"),
    (
        "search: {strategy: tune, priors: {learning_rate: {centre: 1, confidence: 1.5}}}",
        7,
        "`search.priors.learning_rate.confidence` must be a share in (0, 1], but got 1.5. Leave out a prior",
    ),
    (
        "search: {strategy: tune, trials: 1, enqueue: [{}, {}]}",
        7,
        "`search.enqueue` must have at most 1 entries (`search.trials`), but got 2.",
    ),
    (
        "search: {strategy: tune, sampler: grid, priors: {learning_rate: {centre: 1}}}",
        7,
        "`search.priors` must be left out with the sampler grid, which tries every place once.",
    ),
    (
        "search: {strategy: tune, objectives: [val_loss], from_study: old}",
        7,
        "`search.from_study` must be left out with `search.objectives`. Give the best in `search.enqueue`.",
    ),
    (
        "search: {strategy: tune, sampler: cmaes, from_study: old}",
        7,
        "`search.from_study` must be left out with the sampler cmaes, which learns from its own proposals at most.",
    ),
    (
        "search: {strategy: tune, law: map, priors: {learning_rate: {centre: 1}}}",
        7,
        "`search.law` must be left out with `search.priors.learning_rate` and with `search.learning_rate",
    ),
    (
        "search: {strategy: tune, enqueue: [{learning_rate: .nan}]}",
        7,
        "`search.enqueue.0.learning_rate` must be a finite number, but got .nan.",
    ),
    ("search: {strategy: tune, enqueue: [3]}", 7, "`search.enqueue.0` must be a mapping, but got 3."),
    ("search: {zzz: 3}", 7, "unknown key `zzz` in `search`. Known: strategy,"),
    ("serch: {}", 7, "unknown key `serch` in the recipe; did you mean `search`? Known: name, study, model,"),
    ("search:\n  learning_rate:\n    hgih: 1", 9, "unknown key `hgih` in `search.learning_rate`; did you mean `high`?"),
    ("seed: 1\n\nname: twice", 9, "`name` is set twice in the recipe, first on line 1. Keep one."),
    ("search: {seed: 1, seed: 2}", 7, "`seed` is set twice in `search`, first on this line. Keep one."),
    ("1: 2", 7, "a key in the recipe must be text, but got 1. Put it in quotes."),
    ("? [a]\n: 2", 7, "a key in the recipe must be text, but got sequence. Put it in quotes."),
    ('"a\\nb": 2', 7, "a key in the recipe must be printable text, but got 'a\\nb'."),
    # YAML.
    ("training: {epochs: 1", 8, "this is not YAML: expected ',' or '}', but got '<stream end>'."),
    ("\tsearch: 1", 7, "this is not YAML: found character '\\t' that cannot start any token."),
    (
        "tracking: {experiment: !!python/name:os.system }",
        7,
        "`tracking.experiment` has the tag `!!python/name:os.system`",
    ),
    ("study: !secret x", 7, "`study` has the tag `!secret`, but recipes hold plain values only."),
    ("search: &s {seed: 1}\ncluster: *s", 8, "`cluster` must not be an alias"),
    ("search:\n  batch_sizes: &b [*b]", 8, "`search.batch_sizes.0` must not be an alias"),
    # Types.
    ("search: 3", 7, "`search` must be a mapping with the keys strategy, batch_sizes,"),
    ("search:", 7, "`search` must be a mapping with the keys strategy, batch_sizes,"),
    ("training: {epochs: many}", 7, "`training.epochs` must be a whole number, but got 'many'."),
    ("training: {epochs: true}", 7, "`training.epochs` must be a whole number, but got true."),
    ("training: {epochs: null}", 7, "`training.epochs` must be a whole number, but got null."),
    ("training: {epochs: 1e3}", 7, "`training.epochs` must be a whole number, but got 1000.0. Write 1000."),
    ("training: {warmup: '0.1'}", 7, "`training.warmup` must be a number, but got '0.1'."),
    ("training: {warmup: false}", 7, "`training.warmup` must be a number, but got false."),
    ("training: {warmup: .nan}", 7, "`training.warmup` must be a finite number, but got .nan."),
    ("search: {extend: 1}", 7, "`search.extend` must be true or false, but got 1."),
    ("study: 12", 7, "`study` must be text, but got 12. Put it in quotes."),
    ("metrics: {direction: mim}", 7, "`metrics.direction` must be one of min, max, but got 'mim'; did you mean `min`?"),
    ("training: {precision: 32}", 7, "`training.precision` must be one of 32-true,"),
    ("search: {batch_sizes: 16}", 7, "`search.batch_sizes` must be a list such as [16, 32], but got 16."),
    ("search:\n  batch_sizes:\n  - 16\n  - x", 10, "`search.batch_sizes.1` must be a whole number, but got 'x'."),
    (
        "search: {optimizers: sgd}",
        7,
        "`search.optimizers` must be a list of different names, or a mapping of names to ",
    ),
    ("search: {schedules: [wsd, wsd]}", 7, "`search.schedules` must be a list of different names,"),
    ("search: {optimizers: {sgd: 3}}", 7, "`search.optimizers.sgd` must be a mapping, but got 3."),
    (
        "search: {parameters: {training.warmup: 3}}",
        7,
        "`search.parameters.training.warmup` must be a mapping, but got 3.",
    ),
    ("training: {seed: 9223372036854775808}", 7, "`training.seed` must be a whole number of less than 2^63 in size,"),
    # Rules of a section.
    ("search: {trials: 2000000}", 7, "`search.trials` must be at most 1,000,000, but got 2000000."),
    (
        "search: {learning_rate: {highest: 1e-323}}",
        7,
        "`search.learning_rate` must come to rates greater than 0 and finite, but comes to 0.0 to ",
    ),
    (
        "search: {parameters: {model.init_args.x: {low: 0, high: 1.0, step: 1e-300}}}",
        7,
        "`search.parameters.model.init_args.x.step` must divide the range into less than 2^53 values, but got 1e-300.",
    ),
    (
        "search: {parameters: {model.init_args.x: {low: -1e308, high: 1e308}}}",
        7,
        "`search.parameters.model.init_args.x.low` and `high` must lie a finite distance apart, but got -1e+308",
    ),
    ("study: ../up", 7, "`study` must be 1 to 64 lower-case letters, digits,"),
    (f"study: {'a' * 65}", 7, "`study` must be 1 to 64 lower-case letters,"),
    ("study: ''", 7, "`study` must be 1 to 64 lower-case letters,"),
    ("training:\n  seed: 1\n  epochs: 0", 9, "`training.epochs` must be at least 1, but got 0."),
    ("metrics: {target_metric: val_acc}", 7, "`metrics.target_metric` is 'val_acc', but no `target` is set."),
    (
        "metrics: {easier_target: 0.3}",
        7,
        "`metrics.easier_target` is 0.3, but no `target` is set. Set it, or leave both out.",
    ),
    (
        "metrics:\n  target: 0.3\n  easier_target: 0.2",
        9,
        "`metrics.easier_target` must be greater than `target` (0.3), to be reached first, but got 0.2.",
    ),
    ("metrics: {target: 0.3, easier_target: 0.3}", 7, "`metrics.easier_target` must be greater than `target` (0.3)"),
    (
        "metrics: {target: 0.9, direction: max, easier_target: 0.95}",
        7,
        "`metrics.easier_target` must be less than `target` (0.9), to be reached first, but got 0.95.",
    ),
    (
        "metrics: {target: 0.9, target_metric: val_accuracy, target_direction: max, easier_target: 0.95}",
        7,
        "`metrics.easier_target` must be less than `target` (0.9)",
    ),
    ("search:\n  batch_sizes: [8, 0]", 8, "`search.batch_sizes` must be at least 1, but got 0."),
    ("search:\n  learning_rate:\n    factor: 1", 9, "`search.learning_rate.factor` must be greater than 1"),
    ("cluster: {workers: 0}", 7, "`cluster.workers` must be at least 1, but got 0."),
    ("cluster: {reconnect_seconds: -1}", 7, "`cluster.reconnect_seconds` must be at least 0 and finite, but got -1"),
    (
        "tracking: {uri: 'http://me:secret@['}",
        7,
        "`tracking.uri` must be an address such as http://127.0.0.1:5000, but",
    ),
    ("tracking: {uri: 'http://:5000'}", 7, "`tracking.uri` must be an address such as http://127.0.0.1:5000, but got"),
    ("tracking: {uri: 'http://host:port'}", 7, "`tracking.uri` must be an address such as http://127.0.0.1:5000, but"),
    # Optimizers, schedules and their arguments.
    ("search:\n  optimizers: [sgdd]", 8, "`search.optimizers.sgdd` must be one of adam, adamw, own, rmsprop, sgd,"),
    ("search:\n  schedules:\n    constant:\n    cosin:", 10, "`search.schedules.cosin` must be one of batch_growth,"),
    ("search: {optimizers: {sgd: {momentm: 0.9}}}", 7, "`search.optimizers.sgd.momentm` must be left out"),
    ("search: {optimizers: {sgd: {momentum: 1}}}", 7, "`search.optimizers.sgd.momentum` must be a number in [0, 1)"),
    ("search: {schedules: {wsd: {decay: {low: 0.1, high: 2}}}}", 7, "`search.schedules.wsd.decay` must be a number in"),
    ("search: {schedules: {wsd: {shape: {values: [x]}}}}", 7, "`search.schedules.wsd.shape` must be linear or 1-sqrt,"),
    (
        "search: {schedules: {plateau: {patience: {low: 1, high: 3, step: 0.5}}}}",
        7,
        "`search.schedules.plateau.patience`",
    ),
    ("search: {optimizers: {own: {}}}", 7, "`search.schedules` must be just `constant` with the optimizer `own`"),
    (
        "training: {weight_decay: 0.1}\nsearch: {optimizers: [own], schedules: [constant]}",
        7,
        "`training.weight_decay` must be left out with the optimizer `own`",
    ),
    # Adam's betas and the batch size.
    (
        "search: {learning_rate: {rule: adam_sde}}",
        7,
        "`search.learning_rate.rule` must not be adam_sde with optimizers that have no betas, but got sgd.",
    ),
    (
        "search:\n  schedules: [constant]\n  optimizers: [rmsprop, adam, own]\n  learning_rate:\n    rule: adam_sde",
        11,
        "`search.learning_rate.rule` must not be adam_sde with optimizers that have no betas, but got rmsprop, own. "
        "Keep adam and adamw alone, or leave the rule out.",
    ),
    (
        "search:\n  learning_rate: {rule: adam_sde}\n  optimizers:\n    adamw:\n      beta1: {low: 0.8, high: 0.9}",
        11,
        "`search.optimizers.adamw.beta1` must be a value with `search.learning_rate.rule` adam_sde,",
    ),
    (
        "search: {learning_rate: {rule: adam_sde}, optimizers: {adam: {epsilon: {values: [1.0e-8, 1.0e-4]}}}}",
        7,
        "`search.optimizers.adam.epsilon` must be a value with `search.learning_rate.rule` adam_sde, which derives it",
    ),
    (
        "search:\n  optimizers: [adam, adamw]\n  learning_rate: {rule: adam_sde}\n  batch_sizes: [64, 1024, 2048]",
        10,
        "`search.batch_sizes` must be less than 640 with `search.learning_rate.rule` adam_sde and a `beta1` of 0.9 at "
        "batch size 64, but got 2048, where `beta1` would be -2.2. Raise `beta1` or `search.learning_rate.reference_",
    ),
    (
        "search:\n  optimizers: [adam]\n  learning_rate:\n    rule: adam_sde\n    reference_batch_size: 32",
        7,
        "`search.batch_sizes` must be less than 320 with `search.learning_rate.rule` adam_sde and a `beta1` of 0.9",
    ),
    (
        "search:\n  learning_rate: {rule: adam_sde}\n  optimizers: {adam: {beta1: 1.5}}",
        9,
        "`search.optimizers.adam.beta1` must be a number in [0, 1)",
    ),
    (
        "search:\n  optimizers: [adam]\n  learning_rate: {rule: adam_sde, reference_batch_size: 0}",
        9,
        "`search.learning_rate.reference_batch_size` must be at least 1, but got 0.",
    ),
    # Ranges.
    ("search: {optimizers: {sgd: {momentum: {low: 0.9, hihg: 1}}}}", 7, "unknown key `hihg` in `search.optimizers.sgd"),
    (
        "search: {optimizers: {sgd: {momentum: {low: 0.9, high: 0.5}}}}",
        7,
        "`search.optimizers.sgd.momentum.low` must be",
    ),
    (
        "search: {optimizers: {adam: {epsilon: {low: 0, high: 1, log: true}}}}",
        7,
        "`search.optimizers.adam.epsilon.low` m",
    ),
    (
        "search: {parameters: {training.warmup: {values: []}}}",
        7,
        "`search.parameters.training.warmup.values` must have",
    ),
    (
        "search: {parameters: {training.warmup: {values: [x]}}}",
        7,
        "`search.parameters.training.warmup` must be a number,",
    ),
    (
        "search: {parameters: {training.warmup: {low: 0, high: 1}}}",
        7,
        "`search.parameters.training.warmup` must be a sh",
    ),
    # What can be searched.
    (
        "search:\n  parameters:\n    training.epochs: {values: [1, 2]}",
        9,
        "`search.parameters.training.epochs` must begin with `model.init_args.` or `data.init_args.`, or be one of "
        "`training.warmup`,",
    ),
    ("search: {parameters: {width: {values: [1]}}}", 7, "`search.parameters.width` must begin with `model.init_args.`"),
    (
        "search: {parameters: {data.init_args.batch_size: {values: [1]}}}",
        7,
        "`search.parameters.data.init_args.batch_size` must be left out: `search.batch_sizes` searches the batch size.",
    ),
    (
        "search: {parameters: {model.init_args.netwrk.init_args.width: {values: [1]}}}",
        7,
        "`search.parameters.model.init_args.netwrk.init_args.width` must lie in the recipe, but `model.init_",
    ),
    ("search: {parameters: {model.init_args.: {values: [1]}}}", 7, "`search.parameters.model.init_args.` must name an"),
    # Between sections.
    (
        "training:\n  accumulate: 4\nsearch:\n  batch_sizes: [8, 10]",
        10,
        "`search.batch_sizes` must be divisible by `training.accumulate` (4), but got [10].",
    ),
]


@pytest.mark.parametrize(("added", "line", "sentence"), ADDED, ids=[row[0] for row in ADDED])
def test_a_mistake_is_told_with_its_line(added: str, line: int, sentence: str) -> None:
    found = mistakes(f"{SOUND}{added}\n")
    assert any(mistake.startswith(f"r.yaml:{line}: {sentence}") for mistake in found), found
    # A mistake brings no others with it, but for a key that is none besides being set twice.
    assert len(found) == 1 or added.startswith("seed: 1\n"), found


WHOLE = [
    ("", "r.yaml: the recipe must have at least `name`, `model` and `data`, but it is empty."),
    ("# nothing\n", "r.yaml: the recipe must have at least `name`, `model` and `data`, but it is empty."),
    ("[1, 2]", "r.yaml: the recipe must be a mapping such as `name: mine`, but it is no mapping."),
    ("just text", "r.yaml: the recipe must be a mapping such as `name: mine`, but it is no mapping."),
    ("name: x\n---\nname: y\n", "r.yaml:2: this is not YAML: but found another document."),
    ("[" * 5000, "r.yaml:1: this is nested too deeply to be read."),
    (SOUND.replace("64", "[" * 200 + "]" * 200), "r.yaml:5: this is nested too deeply to be read."),
    ("name: \x07", "r.yaml:1: this is not YAML: special characters are not allowed."),
    (SOUND.replace("name: sound\n", ""), "r.yaml: `name` is missing."),
    (SOUND.replace("name: sound", "name: Sound"), "r.yaml:1: `name` must be 1 to 64 lower-case letters"),
    (SOUND.replace("models.data.Digits", "Digits"), "r.yaml:6: `data.class_path` must be an import path"),
    (SOUND.replace("  class_path: models.task.Classifier\n", ""), "r.yaml:2: `model.class_path` is missing."),
    (
        SOUND.replace("Digits}", "Digits, init_args: {batch_size: 8}}"),
        "r.yaml:6: `data.init_args.batch_size` must be left out: the batch size is searched.",
    ),
    (
        SOUND.replace("models.data.Digits", "models.text.Text"),
        "r.yaml:6: `data.init_args.path` must be a UTF-8 text file to learn, but got null. "
        "Give it in the recipe, or as `--data.init_args.path PATH`.",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), WHOLE, ids=[row[1][:50] for row in WHOLE])
def test_a_recipe_that_is_none_says_so_in_one_sentence(text: str, sentence: str) -> None:
    [found] = mistakes(text)
    assert found.startswith(sentence)


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    found = mistakes(
        "name: No\nsearch:\n  trails: 3\n  refine: -1\n  optimizers: [sgdd]\ntraining: {epochs: x, warmup: 2}\n"
        "metrics: {traget: 0.1, target_metric: val_accuracy}\n"
    )
    starts = [
        "`model` is",
        "`data` is",
        "`name`",
        "unknown key `trails`",
        "`search.refine`",
        "`search.optimizers.sgdd`",
    ]
    starts += ["`training.epochs`", "`training.warmup`", "unknown key `traget`"]  # and none about the missing target
    assert [mistake.partition(": ")[2][: len(start)] for mistake, start in zip(found, starts, strict=True)] == starts


@pytest.mark.parametrize("name", ready_recipes())
def test_a_resolved_recipe_resolves_to_the_same_bytes(name: str) -> None:
    recipe = load_recipe(["--config", name, *(["--data.init_args.path", "a.txt"] if name == "text" else [])])
    text = to_yaml(recipe)
    again = from_yaml_text(text, "again")
    assert again == recipe
    assert to_yaml(again) == text
    assert recipe.name == name
    json.dumps(dataclasses.asdict(recipe), allow_nan=False)


TEXTS = [
    "1e-4",
    "on",
    "null",
    "~",
    "1:30",
    "2024-01-01",
    "",
    " a ",
    "a: b",
    "#",
    "a\nb\n",
    "é\u2028",
    "\x07",
    "=",
    "<<",
    "010",
]


@pytest.mark.parametrize("value", [*TEXTS, 1e-300, 1e17, -0.0, 10**20, [], {}, [[], {}], None, True], ids=repr)
def test_every_plain_value_survives_being_written_and_read(value: object) -> None:
    recipe = dataclasses.replace(
        from_yaml_text(SOUND, "r.yaml"), model=ClassConfig(class_path="a.B", init_args={"x": value})
    )
    again = from_yaml_text(to_yaml(recipe), "again")
    assert again == recipe
    assert type(again.model.init_args["x"]) is type(value)


@pytest.mark.parametrize(
    "text", ["1e-4", "1E5", "-1.5e3", ".5", "3.", "12", "-7", "0x1f", "1_000", "true", "a", "2024-01-01"]
)
def test_numbers_read_as_jsonargparse_reads_them(text: str) -> None:
    draft = read_yaml(text, str)
    assert draft.values == jsonargparse.get_loader("yaml")(text)
    assert not draft.mistakes


def test_a_grid_axis_may_be_a_list_of_names() -> None:
    listed = from_yaml_text(f"{SOUND}search: {{optimizers: [sgd, adamw], schedules: {{cosine: , wsd: {{}}}}}}", "r")
    assert listed.search.optimizers == {"sgd": {}, "adamw": {}}
    assert listed.search.schedules == {"cosine": {}, "wsd": {}}


@pytest.mark.parametrize(
    "added",
    [
        "metrics: {target: 0.3, easier_target: 0.5}",
        "metrics: {target: 0.9, easier_target: 0.8, direction: max}",
        "metrics: {target: 0.9, easier_target: 0.8, target_metric: val_accuracy, target_direction: max}",
        "metrics: {target: 0.3, easier_target: 0.5, direction: max, target_direction: min}",
        "search: {learning_rate: {rule: adam_sde}, optimizers: [adam, adamw]}",
        "search: {learning_rate: {rule: adam_sde}, optimizers: {adam: {beta1: 0.99}}, batch_sizes: [1, 6399]}",
        "search: {learning_rate: {rule: adam_sde, reference_batch_size: 512}, optimizers: [adam], batch_sizes: [4096]}",
    ],
)
def test_settings_that_agree_are_accepted_and_written_back(added: str) -> None:
    recipe = from_yaml_text(f"{SOUND}{added}\n", "r")
    assert from_yaml_text(to_yaml(recipe), "again") == recipe


def test_whole_numbers_are_numbers_and_stay_whole_in_ranges() -> None:
    recipe = from_yaml_text(
        f"{SOUND}metrics: {{target: 1}}\nsearch: {{parameters: {{model.init_args.width: {{low: 1, high: 4}}}}}}", "r"
    )
    assert isinstance(recipe.metrics.target, float)
    assert recipe.search.parameters == {"model.init_args.width": {"low": 1, "high": 4}}
    assert all(isinstance(end, int) for end in recipe.search.parameters["model.init_args.width"].values())


OVERRIDES = [
    (["--search.trials", "24"], "search.trials", 24),
    (["--search.trials=24"], "search.trials", 24),
    (["--search.trials", "24", "--search.trials", "3"], "search.trials", 3),
    (["--search.batch_sizes", "[16,32]"], "search.batch_sizes", (16, 32)),
    (["--search.batch_sizes", "[16]", "--search.batch_sizes+", "64"], "search.batch_sizes", (16, 64)),
    (["--search.batch_sizes+", "[1024, 2048]"], "search.batch_sizes", (16, 32, 64, 128, 256, 512, 1024, 2048)),
    (["--training.warmup", "1e-2"], "training.warmup", 0.01),
    (["--training.gradient_clip", "1"], "training.gradient_clip", 1.0),
    (["--training.gradient_clip", "1", "--training.gradient_clip", "null"], "training.gradient_clip", None),
    (["--training", "{epochs: 3}", "--training.seed", "4", "--training", "{min_steps: 5}"], "training.epochs", 3),
    (["--study", "123"], "study", "123"),
    (["--study", "a", "--study", "null"], "study", None),
    (["--search.schedules", "[constant,cosine]"], "search.schedules", {"constant": {}, "cosine": {}}),
    (["--search.schedules+", "wsd"], "search.schedules", {"constant": {}, "cosine": {}, "wsd": {}}),
    (["--search.optimizers.sgd.momentum", "0.5"], "search.optimizers", {"sgd": {"momentum": 0.5}}),
    (["--search.learning_rate.centre", "1e-1"], "search.learning_rate.centre", 0.1),
    (["--data.init_args.path", "file.txt"], "data.init_args", {"path": "file.txt"}),
    (["--data.init_args.path", "%a b: @c"], "data.init_args", {"path": "%a b: @c"}),
    (["--data.init_args", "{test: 0.2}", "--data.init_args", "{image: true}"], "data.init_args", {"image": True}),
    (
        ["--model.init_args.network.init_args.width", "64"],
        "model.init_args",
        {"network": {"class_path": "models.nets.MLP", "init_args": {"features": 64, "width": 64}}},
    ),
    (
        [
            "--search.parameters.model.init_args.width",
            "{low: 1, high: 9}",
            "--search.parameters.model.init_args.width.low",
            "2",
        ],
        "search.parameters",
        {"model.init_args.width": {"low": 2, "high": 9}},
    ),
]


@pytest.mark.parametrize(("argv", "name", "value"), OVERRIDES, ids=[" ".join(row[0]) for row in OVERRIDES])
def test_an_override_sets_its_key(argv: list[str], name: str, value: object, tmp_path: Path) -> None:
    found: object = loaded(tmp_path, *argv)
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


WRONG_OPTIONS = [
    (
        ["--search.trails", "3"],
        "--search.trails: there is no option `--search.trails`; did you mean `--search.trials`?",
    ),
    (["--trials", "3"], "--trials: there is no option `--trials`; did you mean `--search.trials`?"),
    (["--confg", "x"], "--confg: there is no option `--confg`; did you mean `--config`?"),
    (["--training.epochs.x", "3"], "--training.epochs.x: there is no option `--training.epochs.x`"),
    (["--qwxyz", "3"], "--qwxyz: there is no option `--qwxyz`. `--help` lists them all."),
    (["--search.trials"], "--search.trials: a value must follow, as in `--search.trials 24`."),
    (["smoke"], "command line: `smoke` is no option. Keys are set as in `--search.trials 24`."),
    (["--config", "smoke"], "--config: `--config` must be given once, but got"),
    (["--study", "\udcff"], "--study: the value must be text in UTF-8."),
    (["--search.trials", "0"], "--search.trials: `search.trials` must be at least 1, but got 0."),
    (["--search.trials", "many"], "--search.trials: `search.trials` must be a whole number, but got 'many'."),
    (["--search.trials", "[1"], "--search.trials: this is not YAML: expected ',' or ']', but got '<stream end>'."),
    (["--search.trials+", "1"], "--search.trials+: `search.trials` must be a list to be added to."),
    (["--search.batch_sizes", "[16, x]"], "--search.batch_sizes: `search.batch_sizes.1` must be a whole number"),
    (["--search.optimizers", "[sgdd]"], "--search.optimizers: `search.optimizers.sgdd` must be one of adam,"),
    (
        ["--search.optimizers.sgd.momentum", "2"],
        "--search.optimizers.sgd.momentum: `search.optimizers.sgd.momentum` must",
    ),
    (["--model.init_args.x", "!!python/name:os.system"], "--model.init_args.x: `model.init_args.x` has the tag"),
    (["--model.init_args.x", ".inf"], "--model.init_args.x: `model.init_args.x` must be a finite number"),
    (["--model.class_path.x", "1"], "--model.class_path.x: there is no option"),
    (
        ["--model.init_args.network.init_args.features.deep", "1"],
        "--model.init_args.network.init_args.features.deep: `model.init_args.network.init_args.features.deep` cannot "
        "be set: `model.init_args.network.init_args.features` is no mapping.",
    ),
    (["--training.accumulate", "5"], "--training.accumulate: `search.batch_sizes` must be divisible by"),
]


@pytest.mark.parametrize(("argv", "sentence"), WRONG_OPTIONS, ids=[" ".join(row[0]) for row in WRONG_OPTIONS])
def test_a_mistake_of_the_command_line_names_the_option(argv: list[str], sentence: str, tmp_path: Path) -> None:
    found = refused(tmp_path, *argv)
    assert found[0].startswith(sentence), found


def test_mistakes_of_the_file_and_of_the_command_line_come_together(tmp_path: Path) -> None:
    found = refused(tmp_path, "--trials", "3", "--search.seed", "-1", text=f"{SOUND}study: A\n")
    assert [mistake.partition(": ")[0] for mistake in found] == ["r.yaml:7", "--trials", "--search.seed"]


def test_a_mistake_that_an_override_mends_is_none(tmp_path: Path) -> None:
    text = f"{SOUND}search: {{trials: 0}}\n"
    assert refused(tmp_path, text=text) == ["r.yaml:7: `search.trials` must be at least 1, but got 0."]
    assert loaded(tmp_path, "--search.trials", "1", text=text).search.trials == 1


def test_without_a_config_the_recipe_is_digits() -> None:
    assert load_recipe([]).name == "digits"


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    ready = "Ready: cnn, digits, regimes, smoke, text, tune."
    cases = {
        "digit": f"`digit` is neither a file nor a ready recipe; did you mean `digits`? {ready}",
        "no/such.yaml": f"`no/such.yaml` is neither a file nor a ready recipe. {ready}",
        str(tmp_path): f"`{tmp_path}` must be a readable file: is a directory.",
        str(tmp_path / "latin.yaml"): f"`{tmp_path}/latin.yaml` must be text in UTF-8, but byte 9 is none.",
        "a\0b": "`a\0b` must be a readable file: embedded null byte.",
        "": "`` must be a readable file: is a directory.",
    }
    for config, sentence in cases.items():
        with pytest.raises(RecipeError) as raised:
            load_recipe(["--config", config])
        assert raised.value.mistakes == (f"--config: {sentence}",)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SOUND.replace("\n", "\r\n").encode())
    assert load_recipe(["--config", str(path)]).name == "sound"


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    script = """
import sys
from pipelines.recipe import load_recipe, to_yaml
to_yaml(load_recipe(["--config", "cnn", "--search.trials", "2"]))
heavy = {"torch", "lightning", "pytorch_lightning", "optuna", "mlflow", "distributed", "dask", "sklearn", "scipy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=Path(__file__).parent.parent)
