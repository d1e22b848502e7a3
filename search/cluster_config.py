"""Where the trials of a search run."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Where trials run: worker processes of this machine, or a running Dask scheduler."""

    workers: int | None = None
    """Worker processes; null: one per core, or one per GPU where there are any."""
    per_gpu: int = 1
    """Workers that share one GPU."""
    address: str | None = None
    """Address of a running Dask scheduler: `tcp://127.0.0.1:8786`, on another machine `tls://host:8786`; null: workers
    of this machine."""
    dashboard: bool = True
    """Whether Dask's dashboard is served, on 127.0.0.1."""
    stall_seconds: float | None = 600.0
    """A training that takes no step for so long, and for ten times as long as any of its steps took, hangs: its worker
    is started anew, and the second time the trial ends. null: it is waited for."""
    reconnect_seconds: float = 300.0
    """So long, a scheduler at `address` that is lost is waited for, with a worker; 0: the search ends at once."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        if self.workers is not None and self.workers < 1:
            yield f"`workers` must be at least 1, but got {self.workers}. Leave it out for one per core or GPU."
        if self.per_gpu < 1:
            yield f"`per_gpu` must be at least 1, but got {self.per_gpu}."
        if self.stall_seconds is not None and not 0 < self.stall_seconds < float("inf"):
            yield f"`stall_seconds` must be greater than 0 and finite, or null, but got {self.stall_seconds}."
        if not 0 <= self.reconnect_seconds < float("inf"):
            yield f"`reconnect_seconds` must be at least 0 and finite, but got {self.reconnect_seconds}."
        if self.address is not None and self.workers is not None:
            yield "`workers` must be left out with `address`: a running scheduler has its own."
        if self.address is not None and is_open(self.address):
            yield (
                f"`address` must begin with `tls://` beyond this machine, but got {self.address!r}: whoever reaches a "
                f"scheduler without TLS runs code as you. {TLS}"
            )


TLS = (
    "Give Dask certificates on every machine (`distributed.comm.tls` in ~/.config/dask/distributed.yaml: ca-file, and "
    "cert and key for scheduler, worker and client), or reach the scheduler through an SSH tunnel to tcp://127.0.0.1."
)


def is_open(address: str) -> bool:
    """Whether others could read or write what goes to an address: it is no loopback, and has no TLS."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        if parts.scheme == "tls" or parts.hostname == "localhost":
            return False
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:  # A name, which may mean any machine.
        return True
