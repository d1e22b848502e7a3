"""`regatta predict`: a trained model's outputs for the rows of a file."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape

from models.inputs import Array, Predict, cast, in_batches, shaped
from pipelines.array_file import read_rows, refuse_unknown, write_rows
from pipelines.bundle_file import NAME, read_bundle
from tracking import loading
from tracking.client import tracking_uri
from tracking.loading import ModelFolder
from tracking.place import existing_study, home

PRODUCTION = Path("production", "model")
"""Where `regatta train` leaves its model in a study's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the command line asks for."""

    input: str
    output: str | None
    """None: beside the input, as `NAME.predictions.SUFFIX`."""
    model: str | None
    """None: the champion of the last study."""
    uri: str | None
    batch_size: int


def main(request: Request) -> int:
    """Predict, and write the outputs; returns the exit code.

    Raises:
        ValueError: if the file, the model or the place of the outputs does not allow it.
    """
    source, target = Path(request.input), output_of(request)
    with told_of("--input", source):
        refuse_unknown(source)
    with told_of("--output", target):
        refuse_unknown(target)
        if not target.parent.is_dir() or target.is_dir():
            raise ValueError("must be a file in a folder that exists.")
        if target.resolve() == source.resolve():
            raise ValueError("must be another file than `--input`, which it would replace.")
    with told_of("--input", source):
        rows = read_rows(source)
    console = Console(soft_wrap=True, highlight=False)
    model, uri = (request.model, request.uri) if request.model else champion(request.uri)
    # When MLflow refuses a file, its threads may still be fetching others.
    files = TemporaryDirectory(ignore_cleanup_errors=True)
    with files as place, console.status("loading the model"):
        folder = loading.fetch(model, uri=tracking_uri(uri, home()), into=Path(place))
        predict = loaded(folder)
    started = time.perf_counter()
    with told_of("--input", source), console.status("predicting"):
        outputs = in_batches(predict, as_taken(rows, folder), batch_size=request.batch_size)
    seconds = time.perf_counter() - started
    write_rows(target, outputs)
    count = f"{len(rows):,} row{'s' if len(rows) != 1 else ''}"
    console.print(escape(f"{count} predicted by {folder.name} in {seconds:.2f} s: {target}"))
    return 0


def output_of(request: Request) -> Path:
    """Where the outputs go."""
    source = Path(request.input)
    return Path(request.output) if request.output else source.with_name(f"{source.stem}.predictions{source.suffix}")


@contextmanager
def told_of(option: str, path: Path) -> Iterator[None]:
    """Begin a sentence about a file with the option that names it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`{option}` {path} {error}") from error


def champion(uri: str | None) -> tuple[str, str | None]:
    """The model that the last study's name stands for in the registry, and where that is.

    Raises:
        ValueError: if there is no study, or none that has a bundle.
    """
    study = existing_study(None)
    if not (study / NAME).exists():
        raise ValueError(f"`--model` must be given: no trial of the last study, {study.name}, has completed yet.")
    bundle = read_bundle(study / NAME)
    if bundle.mlflow is None:
        return str(study / PRODUCTION), None
    return f"models:/{bundle.name}@champion", uri or bundle.mlflow.uri


def loaded(folder: ModelFolder) -> Predict:
    """The model, ready to predict.

    Raises:
        ValueError: if its files are damaged, or if its classes are not here.
    """
    try:
        if folder.portable:
            return loading.load(folder)
        # A user's classes lie where the command is called, as they do for `regatta train`.
        sys.path.append(os.getcwd())
        # Not at the top of the file: it takes 3 s, and a wrong call is told at once.
        predict: Predict = importlib.import_module("models.predicting").load(folder.path)
    except Exception as error:  # A user's code may raise anything, and so do torch and MLflow for damaged files.
        said = " ".join(str(error).split())[:400] or type(error).__name__
        raise ValueError(f"the model {folder.name} cannot be loaded: {said}") from error
    return predict


def as_taken(rows: Array, folder: ModelFolder) -> Array:
    """The rows in the shape and the type that the model says it takes; as they are where it does not say.

    Raises:
        ValueError: if they do not fit.
    """
    if len(folder.inputs) > 1:
        raise ValueError(f"must be all that the model takes, but that is {len(folder.inputs)} tensors a row.")
    for taken in folder.inputs:
        return cast(shaped(rows, taken.shape), taken.dtype)
    return rows
