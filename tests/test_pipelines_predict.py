"""`regatta predict`, and the same models answered by MLflow alone where our packages cannot be imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from helpers import config_of, user_code
from model_folders import Registry, images, registry_in, save_unportable
from test_pipelines_bundle import bundle

from models.inputs import Array
from pipelines.array_file import write_rows
from pipelines.bundle import MlflowSection
from pipelines.bundle_file import to_yaml
from pipelines.cli import main
from pipelines.run_ui import free_port
from tracking.ledger import Ledger

BIN = Path(sys.executable).parent
ROWS = images(5)
PATIENCE = 180


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_in(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the command is called, with the rows as a table and as an array."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    np.save("x.npy", ROWS)
    pd.DataFrame(ROWS.reshape(5, -1).astype(float)).to_csv("x.csv", index=False)
    write_rows(Path("x.parquet"), ROWS)
    return tmp_path


def expected(registry: Registry) -> Array:
    with torch.no_grad():
        found: Array = registry.net(torch.from_numpy(ROWS)).numpy()
    return found


@pytest.mark.parametrize("source", ["x.npy", "x.csv", "x.parquet"])
def test_the_outputs_of_a_registered_model_are_written_beside_the_input(
    registry: Registry, there: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    assert main(["predict", "--input", source, "--model", "models:/digits@champion", "--uri", registry.uri]) == 0
    target = source.replace(".", ".predictions.")
    said = capsys.readouterr()
    assert said.out.startswith("5 rows predicted by digits version 1 (best, champion) in ")
    assert said.out.endswith(f" s: {target}\n") and said.err == ""
    read: dict[str, Any] = {"x.npy": np.load, "x.csv": pd.read_csv, "x.parquet": pd.read_parquet}
    assert np.asarray(read[source](target)) == pytest.approx(expected(registry), abs=1e-6)
    assert sorted(path.name for path in there.iterdir()) == sorted(["x.npy", "x.csv", "x.parquet", target])


@pytest.mark.parametrize("batch_size", ["1", "2", "4", "5"])
def test_outputs_do_not_depend_on_the_batch_size(registry: Registry, there: Path, batch_size: str) -> None:
    words = ["--model", str(registry.folder), "--output", "y.npy", "--batch_size", batch_size]
    assert main(["predict", "--input", "x.csv", *words]) == 0
    assert np.load("y.npy") == pytest.approx(expected(registry), abs=1e-6)


def study(home: Path, *, mlflow: MlflowSection | None) -> Path:
    Ledger.open(home / "mine", create=True).close()
    (home / "mine" / "best.yaml").write_text(to_yaml(bundle(name="digits", mlflow=mlflow)))
    return home / "mine"


def test_without_a_name_the_champion_of_the_last_study_predicts(
    registry: Registry, there: Path, regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(regatta_home, mlflow=MlflowSection(experiment="digits", uri=registry.uri))
    assert main(["predict", "--input", "x.npy"]) == 0
    assert "predicted by digits version 1 (best, champion)" in capsys.readouterr().out


def test_a_study_without_mlflow_predicts_with_the_model_in_its_folder(
    registry: Registry, there: Path, regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    production = study(regatta_home, mlflow=None) / "production"
    production.mkdir()
    (production / "model").symlink_to(registry.folder)
    assert main(["predict", "--input", "x.npy"]) == 0
    assert f"predicted by {production / 'model'} in " in capsys.readouterr().out


def test_a_model_that_needs_its_classes_finds_them_where_the_command_is_called(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        code = user_code(there, patch)
        save_unportable(there / "model", config_of(code, model="Forwards"), code.Net())
    source = there / f"{code.__name__}.py"
    source.write_text(
        f"{source.read_text()}\n\nclass Forwards(Net):\n    def forward(self, x):\n        return self.net(x)\n"
    )
    rows = np.random.default_rng(0).normal(size=(3, 4))
    np.save("rows.npy", rows)
    assert main(["predict", "--input", "rows.npy", "--model", "model"]) == 0, capsys.readouterr().err
    assert np.load("rows.predictions.npy").shape == (3, 3)


MODEL = ["--model", "FOLDER"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: --input."),
        (["--input", "x.npy"], "there must be a study in "),
        (["--input", "x.npz"], "`--input` x.npz must end in .npy, .csv or .parquet"),
        (["--input", "y.npy", *MODEL], "`--input` y.npy must be a file, but there is none."),
        (["--input", "x.npy", *MODEL, "--batch_size", "0"], "must be a whole number of at least 1, but got '0'"),
        (["--input", "x.npy", *MODEL, "--output", "y.txt"], "`--output` y.txt must end in .npy, .csv or .parquet"),
        (
            ["--input", "x.npy", *MODEL, "--output", "a/y.npy"],
            "`--output` a/y.npy must be a file in a folder that exists.",
        ),
        (["--input", "x.npy", *MODEL, "--output", "./x.npy"], "`--output` x.npy must be another file than `--input`"),
        (
            ["--input", "wide.csv", *MODEL],
            "`--input` wide.csv must have rows of 6 numbers (1 x 2 x 3), which the model",
        ),
        (["--input", "huge.csv", *MODEL], "of the type float32, which the model takes, but row 2, number 3 is 1e+300."),
        (
            ["--input", "word.csv", *MODEL],
            "`--input` word.csv must hold finite numbers, but line 2, column 1 holds 'x'.",
        ),
        (["--input", "x.npy", "--model", "cut"], "the model cut cannot be loaded: "),
        (
            ["--input", "x.npy", "--model", "lost"],
            "the model lost cannot be loaded: `model.class_path` must be importable",
        ),
        (["--input", "x.npy", "--model", "bare"], "the model bare cannot be loaded: "),
    ],
)
def test_a_wrong_call_is_one_sentence_and_writes_nothing(
    registry: Registry, there: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    Path("wide.csv").write_text("1,2,3,4,5,6,7\n")
    Path("huge.csv").write_text("1,2,3,4,5,6\n1,2,1e300,4,5,6\n")
    Path("word.csv").write_text("1,2,3,4,5,6\nx,2,3,4,5,6\n")
    damaged(registry, there)
    before = sorted(there.iterdir())
    assert main(["predict", *(str(registry.folder) if word == "FOLDER" else word for word in words)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("regatta: ") and len(said.err.splitlines()) == 1 and sentence in said.err
    assert said.out == "" and sorted(there.iterdir()) == before


def damaged(registry: Registry, there: Path) -> None:
    """Model folders with an archive cut short, with classes that are gone, and without weights."""
    (there / "cut" / "data").mkdir(parents=True)
    (there / "cut" / "MLmodel").write_bytes((registry.folder / "MLmodel").read_bytes())
    (there / "cut" / "data" / "model.pt2").write_bytes((registry.folder / "data" / "model.pt2").read_bytes()[:-1000])
    config = config_of(json, model="Net")
    save_unportable(there / "lost", config, torch.nn.Linear(1, 1))
    text = json.dumps({**config.to_json(), "model": {"class_path": "nowhere.Net", "init_args": {}}})
    (there / "lost" / "config.json").write_text(text)
    save_unportable(there / "bare", config, torch.nn.Linear(1, 1))
    (there / "bare" / "weights.pt").unlink()


# Without our packages

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("models", "search", "tracking", "pipelines"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Blocked())
"""
UNIMPORTABLE = """
for name in ("models", "search", "tracking", "pipelines"):
    try:
        __import__(name)
    except ImportError as error:
        assert "must not be needed" in str(error), error
    else:
        raise AssertionError(f"{name} can be imported")
"""


def elsewhere(folder: Path, uri: str) -> dict[str, Any]:
    """Where a process runs that cannot import our packages: its folder and environment."""
    (folder / "blocked").mkdir()
    (folder / "blocked" / "sitecustomize.py").write_text(BLOCKED)
    (folder / "empty").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "blocked"),
        "PYTHONSAFEPATH": "1",
        "MLFLOW_TRACKING_URI": uri,
    }
    return {"cwd": folder / "empty", "env": environment}


@pytest.mark.slow
def test_mlflow_alone_loads_a_registered_model(registry: Registry, tmp_path: Path) -> None:
    script = f"{UNIMPORTABLE}\n" + (
        "import json, sys, mlflow, numpy\n"
        "model = mlflow.pyfunc.load_model('models:/digits@champion', model_config={'device': 'cpu'})\n"
        "print(json.dumps(model.predict(numpy.array(json.load(sys.stdin), 'float32')).tolist()))"
    )
    command, given = [sys.executable, "-c", script], json.dumps(ROWS.tolist())
    where = elsewhere(tmp_path, registry.uri)
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE, **where)
    assert done.returncode == 0, done.stderr
    assert np.array(json.loads(done.stdout)) == pytest.approx(expected(registry), abs=1e-6)


@contextmanager
def served(port: int, log: Path, where: dict[str, Any]) -> Iterator[psutil.Process]:
    """`mlflow models serve`, ended with all its processes."""
    command = [str(BIN / "mlflow"), "models", "serve", "-m", "models:/digits@champion", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **where)
    family = [psutil.Process(process.pid)]
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        family += family[0].children(recursive=True)
        yield family[0]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        assert not psutil.wait_procs(family[1:], timeout=30)[1]


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as page:
            return bool(page.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_mlflow_serves_a_registered_model_to_this_machine_alone(registry: Registry, tmp_path: Path) -> None:
    where, port = elsewhere(tmp_path, registry.uri), free_port()
    subprocess.run([sys.executable, "-c", UNIMPORTABLE], check=True, timeout=PATIENCE, **where)
    with served(port, tmp_path / "log", where) as server:
        body = json.dumps({"inputs": ROWS.tolist()}).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, headers)
        with urllib.request.urlopen(asked, timeout=60) as page:
            answer = json.load(page)
        assert np.array(answer["predictions"]) == pytest.approx(expected(registry), abs=1e-6)
        family = [server, *server.children(recursive=True)]
        listening = {c.laddr for member in family for c in member.net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening == {("127.0.0.1", port)}
