"""What synchronisation costs: the seconds in which gradients were on their way between processes."""

import threading
import time
from typing import Any

import torch
import torch.distributed as dist


class Communication:
    """Times the all-reduce of gradients in `DistributedDataParallel`; overlapping buckets count once.

    On CPU only: a GPU's are enqueued and not waited for, so that a clock of the host would not see them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._under_way = 0
        self._since = 0.0

    def watch(self, wrapped: Any) -> None:
        """Time the gradients of this module, if it is one that shares them, on CPU."""
        if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel) and wrapped.device_type == "cpu":
            wrapped.register_comm_hook(self, _timed_mean)

    def begin(self) -> None:
        """One bucket leaves."""
        with self._lock:
            if not self._under_way:
                self._since = time.perf_counter()
            self._under_way += 1

    def end(self) -> None:
        """One bucket has arrived."""
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                self.seconds += time.perf_counter() - self._since


# torch looks at these annotations, and takes none that is still text: so this file evaluates its own.
def _timed_mean(
    clock: Communication,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """What torch does without a hook: the mean over all processes."""
    clock.begin()
    future = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()

    def arrived(done: Any) -> torch.Tensor:
        clock.end()
        mean: torch.Tensor = done.value()[0]
        return mean

    mean_of_all: torch.futures.Future[torch.Tensor] = future.then(arrived)
    return mean_of_all
