"""Links and names that lead out of a folder: what lies behind them is neither sent to MLflow nor taken from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from model_folders import Registry, registry_in
from tracking_rows import study
from tracking_stores import QUIET

from pipelines.cli import main
from tracking.ledger import Ledger
from tracking.memory_runs import MemoryWriter
from tracking.sending import push

pytestmark = QUIET

SECRET = b"s3cr3t"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a file that is nobody's business."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "key").write_bytes(SECRET)
    return made


def sent(ledger: Ledger) -> dict[str, bytes]:
    """The files that a store gets of a study, after as many passes as anything could take."""
    writer = MemoryWriter()
    push(ledger, writer)
    push(ledger, writer)
    found: dict[str, bytes] = {}
    for run in writer.runs.values():
        found.update(run.artifacts)
    return found


@pytest.mark.parametrize("place", ["report.html", "report/steps.png"])
def test_what_lies_behind_a_link_in_a_study_is_not_sent(place: str, tmp_path: Path, outside: Path) -> None:
    with study(tmp_path / "mine", 1) as ledger:
        (tmp_path / "mine" / "trials.csv").write_bytes(b"own")
        link = tmp_path / "mine" / Path(place).parts[0]
        link.symlink_to(outside if "/" in place else outside / "key")
        if "/" in place:
            (outside / "key").rename(outside / "steps.png")
        assert (tmp_path / "mine" / place).read_bytes() == SECRET
        for name in (place, "trials.csv"):
            ledger.set_meta(f"artifact:{name}", "digest")
        found = sent(ledger)
    assert found.pop("trials.csv") == b"own"
    assert SECRET not in found.values() and place not in found


def test_what_a_ledger_has_named_elsewhere_is_not_sent(tmp_path: Path, outside: Path) -> None:
    names = ["../outside/key", str(outside / "key"), "report/../../outside/key", "..", "", "/", "report/../trials.csv"]
    with study(tmp_path / "mine", 1) as ledger:
        (tmp_path / "mine" / "report").mkdir()
        (tmp_path / "mine" / "trials.csv").write_bytes(b"own")
        for name in (*names, "trials.csv"):
            ledger.set_meta(f"artifact:{name}", "digest")
        found = sent(ledger)
    assert {name for name in found if name.endswith(("key", "csv"))} == {"trials.csv"}
    assert SECRET not in found.values()


def test_a_study_that_lies_behind_a_link_itself_is_sent(tmp_path: Path) -> None:
    with study(tmp_path / "disk" / "mine", 1) as ledger:
        (tmp_path / "disk" / "mine" / "trials.csv").write_bytes(b"own")
        ledger.set_meta("artifact:trials.csv", "digest")
    (tmp_path / "mine").symlink_to(tmp_path / "disk" / "mine")
    with Ledger.open(tmp_path / "mine", create=False) as ledger:
        assert sent(ledger)["trials.csv"] == b"own"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_in(tmp_path_factory.mktemp("models")) as made:
        yield made


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands, with a row to predict."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("1,2,3,4,5,6\n")
    return tmp_path


@pytest.mark.parametrize("place", ["outside/key", "outside"])
def test_a_registered_model_with_a_link_is_not_fetched(
    place: str, models: Registry, there: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = mlflow.MlflowClient(models.uri).get_model_version_download_uri("letters", "1")
    link = Path(stored.removeprefix("file://"), "key")
    link.symlink_to(there / place)
    words = ["predict", "--input", "x.csv", "--model", "models:/letters/1", "--uri", models.uri]
    try:
        assert main(words) == 2
    finally:
        link.unlink()
    (said,) = capsys.readouterr().err.splitlines()
    assert "does not hand this model out: " in said and "outside the artifact directory" in said
    assert main(words) == 0


def test_a_model_described_behind_a_link_is_refused(
    models: Registry, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models.folder, there / "model")
    (there / "model" / "MLmodel").rename(there / "elsewhere")
    (there / "model" / "MLmodel").symlink_to(there / "elsewhere")
    assert main(["predict", "--input", "x.csv", "--model", "model"]) == 2
    assert "must have a readable MLmodel file, but: Invalid path" in capsys.readouterr().err
