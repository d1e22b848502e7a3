"""The configuration of tracking: which MLflow server, which experiment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


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
