"""How MLflow is called: its settings, where it is, and a client for reading whose many exceptions become one."""

from __future__ import annotations

import importlib
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracking.credentials import without_credentials

SQLITE = "sqlite:///"

LONGEST_MESSAGE = 400
"""Characters of an error that are passed on; SQLAlchemy's quote whole statements."""

SETTINGS = {
    # A server that is away must answer so at once: waiting is the business of the writer's thread (MLflow: 4 minutes).
    # And a request whose answer was lost, sent again by MLflow itself, would make a second run.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # Whatever it logs as an error it also raises, and a traceback would be drawn into the display of the search.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's settings where the user has not set them; MLflow reads them when it is imported or used."""

FINAL_REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""MLflow's error codes that the same request would meet again."""


class Refused(ConnectionError):
    """MLflow answered, and would answer the same again."""


def tracking_uri(uri: str | None, home: Path) -> str:
    """Which store is meant: the configured one, else `MLFLOW_TRACKING_URI`, else a database in the state folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{own_database(home)}"


def own_database(home: Path) -> Path:
    """The database that is made where the user names no store."""
    return home.absolute() / "mlflow.db"


def set_defaults() -> None:
    """Give MLflow its settings; before it is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def load(uri: str) -> None:
    """Import all of MLflow that writing to a store takes, 2 s; whoever writes later finds it there."""
    set_defaults()
    importlib.import_module("mlflow")
    if uri.startswith(SQLITE):
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")


@contextmanager
def connected(uri: str, *, what: str, remedy: str) -> Iterator[Any]:
    """An `MlflowClient` to read with: `what` is looked for, and `remedy` says how it comes into being.

    Raises:
        ValueError: if the store is a database that is not there yet.
        Refused: if MLflow answers no.
        ConnectionError: if it cannot be reached, or does not answer.
    """
    place = uri.removeprefix(SQLITE)
    if uri.startswith(SQLITE) and not Path(place).exists():
        # MLflow would make the file.
        raise ValueError(f"there must be {what} in {place}, but there are none yet. {remedy}")
    set_defaults()
    # Not at the top of the file: it takes 2 s, and much is done, or told to be wrong, without it.
    mlflow = importlib.import_module("mlflow")
    try:
        yield mlflow.MlflowClient(uri)
    except (mlflow.MlflowException, OSError) as error:
        final = getattr(error, "error_code", None) in FINAL_REFUSALS
        raise (Refused if final else ConnectionError)(one_line(error)) from error


def one_line(error: Exception) -> str:
    """What an error says, without the password that the address in it may hold."""
    return textwrap.shorten(without_credentials(str(error)), LONGEST_MESSAGE, placeholder=" ...")
