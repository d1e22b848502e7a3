"""The configuration of tracking: which MLflow server, which experiment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from tracking.credentials import without_credentials


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Where results are shown."""

    mlflow: bool = True
    """Whether results are written to MLflow at all."""
    uri: str | None = None
    """MLflow tracking URI; null: `MLFLOW_TRACKING_URI`, or a local store in the state folder."""
    experiment: str | None = None
    """Name of the MLflow experiment; null: the recipe's name."""
    report: bool = True
    """Whether a search ends with its report."""
    system_metrics: bool = False
    """Whether processor, memory and GPU use of the driver's machine are recorded on the search's own run."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        if self.experiment is not None and not 0 < len(self.experiment) <= 500:
            yield f"`experiment` must have 1 to 500 characters, but got {len(self.experiment)}."
        if self.uri and not _is_address(self.uri):
            told = without_credentials(self.uri)
            yield f"`uri` must be an address such as http://127.0.0.1:5000, but got {told!r}."


def _is_address(uri: str) -> bool:
    """Whether it can be taken apart at all. Whether somebody answers there is another question."""
    try:
        parts = urlsplit(uri)
        return parts.port != 0 and (parts.scheme not in ("http", "https") or bool(parts.hostname))
    except ValueError:  # Brackets or a port that are none.
        return False
