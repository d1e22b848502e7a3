"""What torch finds on this machine, as a line of JSON: `python -m models.devices`, for who does not import torch."""

from __future__ import annotations

import json
from typing import Any

import torch


def devices() -> dict[str, Any]:
    """Version of torch, the CUDA that it was built for (None: none), and name and bytes of every GPU that it sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [{"name": gpu.name, "memory": gpu.total_memory} for gpu in found],
    }


if __name__ == "__main__":
    print(json.dumps(devices()))
