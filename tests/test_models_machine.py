"""A training says what its numbers depend on beside its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import config_of, train, user_code

from models import machine
from models.machine import machine_tags


def test_a_training_alone_says_its_device_processor_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = train(config_of(user_code(tmp_path, monkeypatch)), tmp_path).tags
    assert {name: tags[name] for name in ("device", "machine", "threads")} == machine_tags("cpu")
    assert (tags["device"], tags["threads"]) == ("cpu", str(torch.get_num_threads()))
    assert tags["machine"].endswith(f", {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz: fast\nmodel name\t: Other\n", "Some CPU @ 2.0GHz: fast"),
        ("processor\t: 0\nBogoMIPS\t: 50\n", None),
        (None, None),
    ],
    ids=["x86", "arm", "no Linux"],
)
def test_the_processor_is_named_wherever_it_can_be(
    text: str | None, model: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    named = machine.processor()
    assert named and model in (None, named)
