"""Passwords and tokens are taken out of addresses before these are kept or shown."""

from __future__ import annotations

import re

_LOGIN = re.compile(r"(\w[\w.+-]*://)([^:/@\s]*)(?::(?!\d+[/?#])[^@\s]*)?(?:@[^@/?\s]*)*@")
"""What stands between `://` and the last `@` before the host. A number before `/` is a port, no password."""
_ARGUMENT = re.compile(r"([?&](?:password|passwd|pwd|token|access_token|api_key|secret)=)[^&#\s'\"]*", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """The same text or address with no password and no token in any address: `https://host`, `postgresql://me@host/db`.

    MLflow has them from `MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD` and `MLFLOW_TRACKING_TOKEN`, PostgreSQL
    from `PGPASSWORD` or `~/.pgpass`.
    """
    return _ARGUMENT.sub(r"\1***", _LOGIN.sub(_without_login, text))


def _without_login(found: re.Match[str]) -> str:
    # A name alone may be a token on the web; a database lets nobody in without one.
    return found[1] if found[1].startswith("http") else f"{found[1]}{found[2]}@"
