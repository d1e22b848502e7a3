"""Hostile files, names and networks: each test causes the real thing, and looks at what it would have left behind."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import Security
from helpers import config_of, user_code
from model_folders import save_unportable
from test_pipelines_bundle import bundle
from test_search_executors import dask

from models import checkpoint, predicting
from models.checkpoint import CheckpointError
from models.job import LAST, Job
from models.production import train
from pipelines.bundle import MlflowSection
from pipelines.bundle_file import read_bundle, to_yaml
from pipelines.cli import main
from pipelines.recipe import load_recipe
from pipelines.session import opened
from pipelines.stages import SEARCH
from search.cluster import connected
from search.cluster_config import ClusterConfig, is_open
from tracking import loading
from tracking.credentials import without_credentials
from tracking.ledger import Ledger
from tracking.place import study_folder

REGATTA = str(Path(sys.executable).with_name("regatta"))
PATIENCE = 180
SECRETS = ("s3cr3t-in-address", "s3cr3t-in-environment")
TINY = [
    "--config", "smoke", "--search.batch_sizes", "[64]", "--search.schedules", "[constant]", "--search.trials", "2",
    "--training.epochs", "1", "--search.arrays", "off", "--search.refine", "0", "--cluster.workers", "1",
]  # fmt: skip


# YAML


TAGS = [
    "!!python/object/apply:os.mkdir [TRAP]",
    "!!python/object/new:os.mkdir [TRAP]",
    "!!python/object/apply:subprocess.check_call [[mkdir, TRAP]]",
    "{!!python/object/apply:os.mkdir [TRAP] : 1}",
    "[1, !!python/object/apply:os.mkdir [TRAP]]",
]


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_that_would_run_something_is_a_sentence_and_runs_nothing(
    tag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap = tmp_path / "trap"
    hostile = tag.replace("TRAP", str(trap))
    (tmp_path / "recipe.yaml").write_text(f"name: mine\nmodel: {hostile}\ndata: {{class_path: models.data.Digits}}\n")
    (tmp_path / "best.yaml").write_text(to_yaml(bundle()).replace("study: mine", f"study: {hostile}"))
    calls = [
        ["search", "--config", str(tmp_path / "recipe.yaml")],
        ["search", "--config", "smoke", "--model.init_args.x", hostile],
        ["train", "--config", str(tmp_path / "best.yaml")],
    ]
    for words in calls:
        assert main(words) == 2
        said = capsys.readouterr().err.splitlines()
        assert any("plain values only" in line or "must be text" in line for line in said), said
        assert "Traceback" not in "".join(said)
    assert not trap.exists()


def test_the_description_of_a_model_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(f"flavors: !!python/object/apply:os.mkdir [{tmp_path / 'trap'}]\n")
    with pytest.raises(ValueError, match="must have a readable MLmodel file"):
        loading.fetch(str(tmp_path), uri="sqlite:///none.db", into=tmp_path)
    assert not (tmp_path / "trap").exists()


# Pickles


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_place_of_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "trap")}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="is not plain data"):
        checkpoint.read(str(tmp_path / "a.ckpt"), None)
    assert not (tmp_path / "trap").exists()
    # The trap is one that works.
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert (tmp_path / "trap").exists()


def test_a_pickle_in_place_of_the_last_checkpoint_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    torch.save({"state_dict": Trap(tmp_path / "trap")}, tmp_path / LAST)
    job = Job(id="a", started=0.0, config=config, steps=39, fingerprint=None, force=True, progress=False)
    outcome = train(job, tmp_path)
    assert (outcome.status, "is not plain data" in outcome.reason) == ("MISTAKE", True)
    assert not (tmp_path / "trap").exists()


def test_a_pickle_in_place_of_weights_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    save_unportable(tmp_path / "model", config_of(code), code.Net())
    torch.save({"weight": Trap(tmp_path / "trap")}, tmp_path / "model" / "weights.pt")
    with pytest.raises(CheckpointError, match="is not plain data"):
        predicting.load(tmp_path / "model")
    assert not (tmp_path / "trap").exists()


# Names


HARMFUL = [
    "../../x", "..", ".", "/tmp/x", "a/b", "a\\b", "a\0b", "x" * 600, "a%b", "-rf", "--study", "é", "ⅸ", " a", "a\n",
    "a b", "con:", "~", "$HOME", "`id`", "", "A", "a\u202eb", "[red]", "a\ud7ff",
]  # fmt: skip


def names() -> Iterator[str]:
    """Some that are known to do harm, and more by chance."""
    yield from HARMFUL
    source = random.Random(0)
    yield from ("".join(source.choices("ab9._-/\\%\0 ~é\n", k=source.randint(1, 12))) for _ in range(200))


def within(home: Path) -> set[Path]:
    """Everything beside the state folder."""
    return {path for path in home.parent.rglob("*") if not path.is_relative_to(home)}


def test_no_name_leads_out_of_the_state_folder(regatta_home: Path) -> None:
    accepted, recipe = [], load_recipe(["--config", "smoke"])
    (regatta_home.parent / "best.yaml").touch()
    before = within(regatta_home)
    for name in names():
        for named in (replace(recipe, name=name), replace(recipe, study=name)):
            wrong = list(named.mistakes())
            assert bool(wrong) == any(sentence.endswith("It names a folder.") for sentence in wrong)
            accepted += [] if wrong else [named]
        (regatta_home.parent / "best.yaml").write_text(to_yaml(replace(bundle(), study=name)))
        try:
            read = read_bundle(regatta_home.parent / "best.yaml")
        except ValueError:
            continue
        assert study_folder(read.study).parent == regatta_home
    assert 0 < len(accepted) < 100
    for named in {found.study_name: found for found in accepted}.values():
        with opened(named, study_folder(named.study_name)):
            pass
    assert within(regatta_home) == before


@pytest.mark.parametrize("name", ["../../x", "/etc", "a%b", "-rf", "a\0b", "x" * 600])
def test_a_hostile_name_is_a_sentence_and_writes_nothing(
    name: str, regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (regatta_home.parent / "best.yaml").write_text(to_yaml(replace(bundle(), study=name)))
    before = within(regatta_home)
    for words in (
        ["search", "--config", "smoke", f"--study={name}"],
        ["train", "--config", str(regatta_home.parent / "best.yaml")],
        ["report", f"--study={name}"],
    ):
        assert main(words) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert within(regatta_home) == before
    assert not regatta_home.exists()


# Passwords


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:secret@host/x", "https://host/x"),
        ("https://secret@host", "https://host"),
        ("https://me:se@cret@host:1/a@b", "https://host:1/a@b"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("postgresql+psycopg2://me:sec/ret@db:1/x?o=a@b", "postgresql+psycopg2://me@db:1/x?o=a@b"),
        ("sqlite:////home/a@b/c:d@e.db", "sqlite:////home/a@b/c:d@e.db"),
        ("http://host?token=secret&x=1", "http://host?token=***&x=1"),
        ("no answer of https://me:secret@host: away", "no answer of https://host: away"),
        ("models:/digits@champion", "models:/digits@champion"),
    ],
)
def test_an_address_is_kept_and_told_without_its_password(text: str, expected: str) -> None:
    assert without_credentials(text) == expected
    assert without_credentials(expected) == expected


def test_a_password_in_the_address_stays_out_of_everything_kept(
    regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"https://me:{SECRETS[0]}@host"
    recipe = load_recipe(["--config", "smoke", "--tracking.uri", uri])
    assert recipe.tracking.uri == uri
    with opened(recipe, regatta_home / "smoke") as ledger:
        assert SECRETS[0] not in ledger.meta("recipe")
    assert "uri: https://host" in (regatta_home / "smoke" / "recipe.yaml").read_text()
    assert "uri: https://host" in to_yaml(bundle(mlflow=MlflowSection(experiment="a", uri=uri)))
    assert SECRETS[0] not in json.dumps(SEARCH.inputs(recipe, regatta_home))
    assert main(["search", "--config", "smoke", "--tracking.uri", uri, "--print_config"]) == 0
    assert main(["search", "--config", "smoke", "--tracking.experiment", "", "--tracking.uri", uri, "--nme", uri]) == 2
    assert SECRETS[0] not in "".join(capsys.readouterr())


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A server whose files lie in a folder; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'a.db'}", "--artifacts-destination", str(folder / "files")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_search_leaves_no_password_anywhere(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "server"
    folder.mkdir()
    environment = {**os.environ, "REGATTA_HOME": str(home), "MLFLOW_TRACKING_PASSWORD": SECRETS[1]}
    environment |= {"MLFLOW_TRACKING_USERNAME": "me"}
    with mlflow_server(folder) as port:
        uri = f"http://me:{SECRETS[0]}@127.0.0.1:{port}"
        command = [REGATTA, "search", *TINY, "--tracking.uri", uri]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        trained = [REGATTA, "train", "--config", str(home / "smoke" / "best.yaml")]
        told = subprocess.run(trained, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert told.returncode == 0, told.stdout + told.stderr
    said = [done.stdout, done.stderr, told.stdout, told.stderr]
    files = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"recipe.yaml", "best.yaml", "report.html", "study.db", "a.db"} <= {Path(name).name for name in files}
    assert f"http://127.0.0.1:{port}".encode() in files[str(home / "smoke" / "best.yaml")]
    for secret in SECRETS:
        assert [name for name, content in files.items() if secret.encode() in content] == []
        assert secret not in "".join(said)


@pytest.mark.slow
def test_a_server_that_is_away_is_told_without_the_password(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    uri = f"http://me:{SECRETS[0]}@127.0.0.1:1"
    with Ledger.open(home / "smoke", create=True) as ledger:
        ledger.set_meta("recipe", "name: smoke\nmodel: {class_path: a.B}\ndata: {class_path: a.C}\n")
    for words in (
        ["sync", "--study", "smoke", "--uri", uri],
        ["report", "--study", "none", "--uri", uri],
        ["rerun", "abcdef0123", "--uri", uri],
        ["predict", "--input", "rows.csv", "--model", "models:/a@b", "--uri", uri],
    ):
        (tmp_path / "rows.csv").write_text("1,2\n")
        done = subprocess.run(
            [REGATTA, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode in (1, 2)
        assert "127.0.0.1" in done.stdout + done.stderr
        assert SECRETS[0] not in done.stdout + done.stderr, words


# Networks


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp://127.0.0.1:8786", False),
        ("127.0.0.1:8786", False),
        ("localhost:8786", False),
        ("tcp://[::1]:8786", False),
        ("tls://10.0.0.5:8786", False),
        ("tcp://10.0.0.5:8786", True),
        ("10.0.0.5:8786", True),
        ("tcp://0.0.0.0:8786", True),
        ("tcp://scheduler:8786", True),
        ("ws://10.0.0.5:8786", True),
        ("tcp://127.0.0.1.example.org:8786", True),
        ("tcp://127.0.0.1@10.0.0.5:8786", True),
        ("tcp://[", True),
    ],
)
def test_a_scheduler_beyond_this_machine_needs_tls(
    address: str, expected: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_open(address) == expected
    assert (main(["search", "--config", "smoke", "--cluster.address", address, "--print_config"]) == 2) == expected
    said = capsys.readouterr().err
    assert ("`cluster.address` must begin with `tls://` beyond this machine" in said) == expected
    assert ("distributed.comm.tls" in said and "SSH tunnel" in said) == expected


def test_tls_without_certificates_is_refused_with_the_way_to_them() -> None:
    with (
        pytest.raises(ValueError, match=r"must be left out without certificates, .*`distributed\.comm\.tls`"),
        connected(ClusterConfig(address="tls://127.0.0.1:1"), paths=[]),
    ):
        pass


def certificates(folder: Path) -> dict[str, str]:
    """Dask's own, as files, and the environment that names them."""
    made = Security.temporary()
    for name, text in (("ca", made.tls_ca_file), ("cert", made.tls_client_cert), ("key", made.tls_client_key)):
        (folder / f"{name}.pem").write_text(text)
    roles = {
        f"DASK_DISTRIBUTED__COMM__TLS__{role}__{part}": str(folder / f"{part.lower()}.pem")
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for part in ("CERT", "KEY")
    }
    return {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "ca.pem"), **roles}


@pytest.mark.slow
def test_a_scheduler_with_certificates_is_reached_and_its_workers_are_examined(tmp_path: Path) -> None:
    known = certificates(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"tls://127.0.0.1:{port}"
    environment = {**os.environ, **known, "REGATTA_HOME": str(tmp_path / "home")}
    with ExitStack() as stack:
        scheduler = ["scheduler", "--host", f"tls://127.0.0.1:{port}", "--no-dashboard"]
        stack.enter_context(dask(*scheduler, cwd=tmp_path, **known))
        worker = ["worker", address, "--host", "127.0.0.1", "--no-dashboard", "--nthreads", "1"]
        stack.enter_context(dask(*worker, cwd=tmp_path, **known))
        deadline, said = time.monotonic() + PATIENCE, ""
        while "workers   1 with our packages" not in said:
            assert time.monotonic() < deadline, said
            command = [REGATTA, "doctor", "--address", address]
            said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE).stdout
    assert "fail workers" not in said
