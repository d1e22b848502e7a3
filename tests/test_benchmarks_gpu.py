"""The table of arrays on a GPU: its bare step trains as a search's array does, and without a GPU it says so."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoint
from models.array import train_array
from models.fusion import examine
from models.segment import Segment
from models.vmapped import OWN

# As `python benchmarks/gpu.py` finds itself and what lies beside it.
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
gpu: Any = importlib.import_module("gpu")

MLP, CONV_NET, _ = gpu.MODELS
STEPS = 11
"""One epoch of batches of 128."""


def configs(model: str, *, accelerator: str = "cpu") -> Any:
    return gpu.trials(model, 2, batch_size=128, steps=STEPS, accelerator=accelerator)


def bare(model: str, *, accelerator: str = "cpu") -> Any:
    made = configs(model, accelerator=accelerator)
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    return gpu.ArrayStep(made, layouts=examine(made).layouts, device=device, steps=STEPS)


@pytest.mark.parametrize("model", [MLP, CONV_NET])
def test_the_bare_steps_train_what_the_array_of_a_search_trains(model: str, tmp_path: Path) -> None:
    segments = [
        Segment(trial=index, config=config, folder=str(tmp_path)) for index, config in enumerate(configs(model))
    ]
    results = train_array(segments)
    array = bare(model)
    array.take(range(STEPS))
    for member, result in enumerate(results):
        assert (result.status, result.to_step) == ("COMPLETE", STEPS) and result.checkpoint
        saved = checkpoint.read(result.checkpoint, result.sha256)["state_dict"]
        found = array.stack.state_of(member)
        assert list(found) == list(saved)
        for name, value in saved.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name.removeprefix(OWN))


def test_a_step_reads_nothing_but_its_buffers() -> None:
    # What a CUDA graph needs: other examples and rates reach a step only through memory that stays where it is.
    array = bare(MLP)
    places = [tensor.data_ptr() for tensor in (array.rows, array.rate, *array.stack.tensors)]
    before = [tensor.detach().clone() for tensor in array.stack.trained]
    array.rows.copy_(array.orders[3])
    array.rate.zero_()
    array.compute()
    assert all(torch.equal(now, then) for now, then in zip(array.stack.trained, before, strict=True))
    array.take([0, 1])
    assert not any(torch.equal(now, then) for now, then in zip(array.stack.trained, before, strict=True))
    assert places == [tensor.data_ptr() for tensor in (array.rows, array.rate, *array.stack.tensors)]


@pytest.mark.gpu
@pytest.mark.parametrize("model", list(gpu.MODELS))
def test_a_captured_array_trains_as_one_without_a_graph(model: str) -> None:
    gpu.check_capture(bare(model, accelerator="gpu"), bare(model, accelerator="gpu"))


def test_on_a_processor_the_table_has_a_line_for_each_model_and_width(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        gpu.main(["--accelerator", "cpu", "--models", MLP, "--widths", "1", "2", "--steps", "5", "--repeats", "1"])
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "| model | members | one at a time | array | step, eager |"
    one, two = (line.split(" | ") for line in lines[5:])
    assert one[:2] == [f"| {MLP}", "1"] and one[3] == ""
    assert two[:2] == [f"| {MLP}", "2"] and "x (" in two[3] and "x (" in two[4]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        pytest.param(
            [],
            f"a CUDA GPU must be there, but torch {torch.__version__} sees none: try `--accelerator cpu`.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (
            ["--accelerator", "cpu", "--graphs"],
            "`--graphs` must go with `--accelerator gpu`: a processor has no CUDA graphs.",
        ),
    ],
)
def test_what_the_machine_lacks_is_said_in_one_sentence(
    given: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        gpu.main(given)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"{sentence}\n"
