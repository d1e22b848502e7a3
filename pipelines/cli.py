"""The `regatta` command: which pipeline runs, and how mistakes are told. Only the pipeline asked for is imported."""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NoReturn

from pipelines.schema import nearest
from tracking.credentials import without_credentials
from tracking.ledger_file import LedgerUnwritable

if TYPE_CHECKING:
    from pipelines.recipe import Recipe

MISTAKE = 2
"""Exit code of a command that was asked wrongly."""
FAILED = 1
"""Exit code of a command that could not be carried out."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, a quota or a limit that is used up."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. `{self.prog} --help` lists the options.")


def _search(argv: Sequence[str]) -> int:
    return _of_recipe("search", argv, begin=_start_workers)


def _start_workers(recipe: Recipe) -> None:
    """What workers import takes as long as all that the driver does until then."""
    from search.forking import start

    if recipe.cluster.address is None:
        start()


def _all(argv: Sequence[str]) -> int:
    return _of_recipe("all", argv)


def _of_recipe(command: str, argv: Sequence[str], *, begin: Callable[[Recipe], None] = lambda recipe: None) -> int:
    from pipelines.recipe import Recipe, load_recipe, public, to_yaml

    if {"--help", "-h"} & set(argv):
        from pipelines.option_help import help_text
        from pipelines.recipe_file import DEFAULT, ready_recipes

        about = COMMANDS[command][1]
        print(help_text(Recipe, command=command, about=about, ready=ready_recipes(), default=DEFAULT), end="")
        return 0
    recipe = load_recipe([word for word in argv if word != "--print_config"])
    if "--print_config" in argv:
        print(to_yaml(public(recipe)), end="")
        return 0
    begin(recipe)
    return _pipeline(command, recipe)


def _export(argv: Sequence[str]) -> int:
    return _pipeline("export", _parsed(_study_parser("export"), argv).study)


def _report(argv: Sequence[str]) -> int:
    parser = _study_parser("report")
    parser.add_argument("--uri", help="MLflow tracking URI, for a study whose folder is not here")
    arguments = _parsed(parser, argv)
    return _pipeline("report", arguments.study, arguments.uri)


def _verify(argv: Sequence[str]) -> int:
    parser = _study_parser("verify")
    parser.add_argument("--top", type=int, default=3, help="cells whose best configuration is verified (default: 3)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each configuration (default: 5)")
    arguments = _parsed(parser, argv)
    return _pipeline("verify", arguments.study, arguments.top, arguments.seeds)


def _sync(argv: Sequence[str]) -> int:
    parser = _study_parser("sync")
    parser.add_argument("--uri", help="MLflow tracking URI (default: MLFLOW_TRACKING_URI, or the local store)")
    arguments = _parsed(parser, argv)
    return _pipeline("sync", arguments.study, arguments.uri)


def _train(argv: Sequence[str]) -> int:
    from pipelines.training_job import Request

    parser = _study_parser("train")
    parser.add_argument("--config", metavar="FILE", help="a bundle (default: best.yaml of the study)")
    parser.add_argument(
        "--fit", choices=("train", "all"), default="train", help="all: on training and validation set together"
    )
    parser.add_argument(
        "--early_stopping", type=_positive, metavar="PATIENCE", help="evaluations without improvement that end it"
    )
    parser.add_argument(
        "--trainer.KEY", metavar="VALUE", help="an argument of Lightning's Trainer, such as --trainer.devices 2"
    )
    parser.add_argument(
        "--force", action="store_true", help="train though data or code have changed, in place of an earlier training"
    )
    parser.add_argument(
        "--registry.promote",
        choices=("always", "gate", "never"),
        default="gate",
        help="when the model becomes champion in MLflow's registry (default: gate, if nothing shows that it is worse)",
    )
    trainer, rest = _trainer_arguments(argv)
    asked = _parsed(parser, rest)
    return _pipeline(
        "train",
        Request(
            study=asked.study,
            config=asked.config,
            fit=asked.fit,
            early_stopping=asked.early_stopping,
            force=asked.force,
            trainer=trainer,
            promote=getattr(asked, "registry.promote"),
        ),
    )


def _trainer_arguments(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The options `--trainer.KEY VALUE` by key, and the other words."""
    found, rest, words = dict[str, str](), list[str](), list(argv)
    while words:
        option, equals, text = words.pop(0).partition("=")
        if not option.startswith("--trainer."):
            rest.append(option + equals + text)
        elif not equals and (not words or words[0].startswith("--")):
            raise ValueError(f"{option}: a value must follow, as in `--trainer.devices 2`.")
        else:
            found[option.removeprefix("--trainer.")] = text if equals else words.pop(0)
    return found, rest


def _predict(argv: Sequence[str]) -> int:
    parser = _parser("predict")
    parser.add_argument("--input", metavar="FILE", required=True, help="rows of numbers: .npy, .csv or .parquet")
    parser.add_argument(
        "--output", metavar="FILE", help="the outputs: .npy, .csv or .parquet (default: NAME.predictions.SUFFIX)"
    )
    parser.add_argument(
        "--model", help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/NAME or a folder (default: the champion)"
    )
    parser.add_argument("--uri", help="MLflow tracking URI (default: MLFLOW_TRACKING_URI, or the local store)")
    parser.add_argument("--batch_size", type=_positive, default=1024, help="rows at a time (default: 1024)")
    asked = _parsed(parser, argv)
    from pipelines.run_predict import Request

    return _pipeline("predict", Request(**vars(asked)))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text!r}")
    return int(text)


def _rerun(argv: Sequence[str]) -> int:
    parser = _parser("rerun")
    parser.add_argument("run", metavar="RUN", help="the trial's run in MLflow: its id, or at least 6 characters of it")
    parser.add_argument("--study", help="name of a study; RUN is then the number of one of its trials")
    parser.add_argument("--uri", help="MLflow tracking URI (default: MLFLOW_TRACKING_URI, or the local store)")
    arguments = _parsed(parser, argv)
    return _pipeline("rerun", arguments.run, arguments.study, arguments.uri)


def _ui(argv: Sequence[str]) -> int:
    parser = _parser("ui")
    parser.add_argument("--port", type=_port, default=5000, help="port on 127.0.0.1 (default: 5000)")
    return _pipeline("ui", _parsed(parser, argv).port)


def _doctor(argv: Sequence[str]) -> int:
    parser = _parser("doctor")
    parser.add_argument("--address", help="a running Dask scheduler, whose workers are looked at too")
    return _pipeline("doctor", _parsed(parser, argv).address)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "search": (_search, "Search the batch sizes, learning rates and schedules of a recipe, or go on with the search."),
    "report": (_report, "Write the page that says what a study found, how sure that is, and what to use."),
    "verify": (_verify, "Train the best configurations again on fresh seeds, and say which to use."),
    "train": (_train, "Train the best configuration for production, or go on with that training."),
    "predict": (
        _predict,
        "Predict the rows of a file with the champion of the last study, or another trained model.",
    ),
    "rerun": (_rerun, "Train a trial again from its MLflow run, and say whether it comes to the same."),
    "all": (_all, "Search, report, verify and train a recipe, each only where something has changed."),
    "export": (_export, "Write a study's trials and curves as tables, and its Optuna studies as a database."),
    "sync": (_sync, "Send to MLflow what of a study is not there yet."),
    "ui": (_ui, "Open the MLflow UI on the local store."),
    "doctor": (_doctor, "Look over packages, devices, memory, disk, ports, studies and MLflow, and say what to do."),
}
"""Name of a command: what runs it (`pipelines.run_NAME`, once its options are read), and its help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `regatta` with these words, or those of the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except ValueError as error:
        return _told(str(error), MISTAKE)
    except LedgerUnwritable as error:
        return _told(str(error), FAILED)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return _told(f"{error}. What was committed is safe: make room, then run the same command again.", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _told(message: str, code: int) -> int:
    for line in without_credentials(message).splitlines():
        print(f"regatta: {line}", file=sys.stderr)
    return code


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(_help(), end="")
        return 0 if words else MISTAKE
    if words[0] == "--version":
        print(f"regatta {metadata.version('regatta')}")
        return 0
    if words[0] not in COMMANDS:
        raise ValueError(
            f"there is no command `{words[0]}`{nearest(words[0], COMMANDS)} Commands: {', '.join(COMMANDS)}."
        )
    return COMMANDS[words[0]][0](words[1:])


def _help() -> str:
    rows = [f"  {name:<8} {about}" for name, (_, about) in COMMANDS.items()]
    lines = [
        "usage: regatta COMMAND [--OPTION VALUE ...]",
        "",
        *rows,
        "",
        "`regatta COMMAND --help` lists a command's options; `regatta --version` says which one this is.",
    ]
    return "\n".join(lines) + "\n"


def _pipeline(command: str, *arguments: object) -> int:
    code: int = importlib.import_module(f"pipelines.run_{command}").main(*arguments)
    return code


def _parser(command: str) -> _Parser:
    return _Parser(prog=f"regatta {command}", description=COMMANDS[command][1], allow_abbrev=False)


def _parsed(parser: _Parser, argv: Sequence[str]) -> argparse.Namespace:
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        word = unknown[0].partition("=")[0]
        near = nearest(word, [f"--{name}" for name in vars(arguments)])
        raise ValueError(f"there is no option `{word}`{near} `{parser.prog} --help` lists them all.")
    return arguments


def _study_parser(command: str) -> _Parser:
    parser = _parser(command)
    parser.add_argument("--study", help="name of the study (default: the last one)")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 65535, but got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
