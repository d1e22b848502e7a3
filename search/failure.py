"""What ends a search that did nothing wrong itself."""

from __future__ import annotations


class SearchFailed(RuntimeError):
    """The search cannot go on; what it has done so far is in the ledger."""


class ClusterAbsent(ValueError):
    """No scheduler answers at the address, or it has no workers: there may be some later."""


class DeadlyCall(ValueError):
    """What was called on a worker has ended the process of two of them."""
