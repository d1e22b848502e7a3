"""What the numbers of a training depend on beside its configuration: device, processor, threads, as tags of its run."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


def machine_tags(accelerator: str) -> dict[str, str]:
    """Equal ones, with `device` cpu, and equal configurations give trainings that are equal to the bit.

    Args:
        accelerator: of the training's configuration.

    Returns:
        `device`, cpu or the name of what the training runs on; `machine`, the processor, the instructions that torch
        makes use of there, and the version of torch; `threads`, among which sums are divided.
    """
    return {"device": _device(accelerator), "machine": _machine(), "threads": str(torch.get_num_threads())}


@functools.cache
def _device(accelerator: str) -> str:
    # As Lightning chooses: whatever there is, unless the recipe says otherwise.
    if accelerator == "cpu" or not torch.accelerator.is_available():
        return "cpu"
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return str(torch.accelerator.current_accelerator())


@functools.cache
def _machine() -> str:
    return f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def processor() -> str:
    """The processor's model, as Linux tells it; elsewhere, and where Linux does not, what Python knows of it."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()
