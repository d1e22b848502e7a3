"""The MLflow store that a search would use, looked at without changing it and without importing MLflow.

As in `tracking.health`: a few words on what was found, or a ValueError with the rule, what is, and the remedy.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import ssl
import urllib.request
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from tracking.client import SQLITE
from tracking.credentials import without_credentials
from tracking.health import reading

SECONDS = 3.0
"""How long a server may take to answer."""
DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""What servers of databases are called in an address, and their ports."""
AWAY = "Start it, or correct MLFLOW_TRACKING_URI. A search goes on without it, and `regatta sync` sends the rest."


def store(uri: str) -> str:
    """The MLflow store at a tracking URI."""
    if uri.startswith(SQLITE):
        return _own_store(Path(uri.removeprefix(SQLITE)))
    try:
        parts = urlsplit(uri)
        kind, host, port = parts.scheme.partition("+")[0], parts.hostname, parts.port
    except ValueError:  # brackets or a port that are none
        kind, host, port = "", None, None
    if kind in ("http", "https"):
        return _server(uri)
    if kind in DATABASES:
        return _database_server(uri, host or "127.0.0.1", port or DATABASES[kind])
    if kind in ("databricks", "databricks-uc"):
        return "Databricks, which is not asked"
    raise ValueError(
        f"the MLflow tracking URI must begin with http://, https://, sqlite:/// or the name of a database server "
        f"({', '.join(DATABASES)}), but is {without_credentials(uri)!r}. Correct MLFLOW_TRACKING_URI, or unset it."
    )


def _own_store(path: Path) -> str:
    if not path.exists():
        return f"{path}, made by the first search"
    try:
        with reading(path) as connection:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
    except (sqlite3.Error, OSError) as error:
        raise ValueError(
            f"the MLflow database {path} must be readable, but is not: {error}. Move it away: `regatta sync` fills a "
            "new one from the ledgers."
        ) from error
    steps = schema_steps()
    version = found[0] if found else "none"
    if version not in steps:
        raise ValueError(
            f"the MLflow database {path} must be of a form that this MLflow knows, but {version} is newer than its "
            "last. Install the MLflow that wrote it, or set REGATTA_HOME to another folder."
        )
    if steps[version]:
        raise ValueError(
            f"the MLflow database {path} must be of this MLflow's form, but {version} is older. Close all that writes "
            f"to it, copy it, then run `mlflow db upgrade {SQLITE}{path}`."
        )
    return f"{path}: {runs} runs"


def schema_steps() -> dict[str, bool]:
    """Every form of the installed MLflow's database, and whether another one follows it."""
    spec = find_spec("mlflow")
    assert spec is not None and spec.origin is not None, "MLflow is a dependency"
    # Read as text: MLflow takes 2 s to import.
    files = (Path(spec.origin).parent / "store/db_migrations/versions").glob("*.py")
    pairs = re.findall(
        r'^revision = "(\w+)"\ndown_revision = (?:"(\w+)"|None)', "\n".join(f.read_text("utf-8") for f in files), re.M
    )
    followed = {before for _, before in pairs}
    return {revision: revision in followed for revision, _ in pairs}


def _server(uri: str) -> str:
    shown = without_credentials(uri)
    try:
        _asked(uri, "health")
        version = _asked(uri, "version").strip()
    except HTTPError as error:
        refused = error.code in (401, 403)
        remedy = (
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
            if refused
            else "Is it an MLflow server, and the whole of its address?"
        )
        raise ValueError(f"the MLflow server {shown} must let you in, but answers {error.code}. {remedy}") from error
    except (URLError, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        remedy = "Give its certificate authority in SSL_CERT_FILE." if isinstance(reason, ssl.SSLError) else AWAY
        raise ValueError(
            f"the MLflow server {shown} must answer within {SECONDS:.0f} s, but does not: {reason}. {remedy}"
        ) from error
    return f"{shown}: MLflow {version[:40]}"


def _asked(uri: str, page: str) -> str:
    """A page of a server, with the credentials that MLflow would send."""
    name, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    parts = urlsplit(uri)
    if parts.username or parts.password:
        name, password = unquote(parts.username or ""), unquote(parts.password or "")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if name is not None and password is not None:
        headers = {"Authorization": f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}"}
    request = urllib.request.Request(f"{without_credentials(uri).rstrip('/')}/{page}", headers=headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return str(answer.read(1000).decode(errors="replace"))


def _database_server(uri: str, host: str, port: int) -> str:
    shown = without_credentials(uri)
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"the database server of {shown} must answer within {SECONDS:.0f} s, but does not: {error}. {AWAY}"
        ) from error
    return f"{shown}: answers, and is not looked into"
