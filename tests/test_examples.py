"""The notebooks in `examples/` are kept without outputs, and run from top to bottom on a study that was searched."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from tracking.rows import trials

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
REGATTA = str(Path(sys.executable).with_name("regatta"))
SEARCH = [
    "search", "--config", "smoke", "--search.trials", "2", "--training.epochs", "2", "--metrics.target", "2.25",
    "--cluster.workers", "1", "--search.arrays", "off", "--tracking.mlflow", "false", "--tracking.report", "false",
]  # fmt: skip


def read(path: Path) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def printed(notebook: NotebookNode, stream: str) -> str:
    """What the cells wrote to `stdout` or `stderr`."""
    written = (output for output in outputs(notebook) if output.output_type == "stream")
    return "".join(output.text for output in written if output.name == stream)


def shown(notebook: NotebookNode, kind: str) -> list[str]:
    """The results of cells that are of a MIME type."""
    return [output.data[kind] for output in outputs(notebook) if kind in output.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_valid_and_holds_no_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert list(outputs(notebook)) == []
    assert {cell.get("execution_count") for cell in notebook.cells} == {None}
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a small search."""
    home = tmp_path_factory.mktemp("examples") / "home"
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    done = subprocess.run([REGATTA, *SEARCH], env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return home


def run(path: Path, folder: Path) -> NotebookNode:
    """The notebook as it is after all its cells have run, in a folder as Jupyter would start it."""
    # Without kernels that the user has installed, `python3` is the interpreter of these tests.
    config = Config({"KernelSpecManager": {"kernel_dirs": []}})
    client = NotebookClient(read(path), timeout=120, config=config, resources={"metadata": {"path": str(folder)}})
    ran: NotebookNode = client.execute()
    return ran


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_shows_the_last_study_or_the_one_named(
    path: Path, named: bool, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named:
        monkeypatch.setenv("REGATTA_STUDY", str(home / "smoke"))
    else:
        monkeypatch.setenv("REGATTA_HOME", str(home))
    notebook = run(path, tmp_path)
    assert printed(notebook, "stderr") == ""
    assert "8 trials in 4 cells" in printed(notebook, "stdout")
    pictures = [base64.b64decode(text) for text in shown(notebook, "image/png")]
    assert len(pictures) == 2 and all(len(picture) > 10_000 for picture in pictures)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_finds_the_studies_of_the_folder_above_it(
    path: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "runs").symlink_to(home)
    monkeypatch.delenv("REGATTA_HOME")
    best = min(trials(home / "smoke"), key=lambda row: row["value"])
    (table,) = shown(run(path, tmp_path / "examples"), "text/html")
    assert f"{best['value']:.6f}" in table
