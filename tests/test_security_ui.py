"""What the UI answers to whom it should not serve: the server that `regatta ui` starts, asked over a real socket."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest
from commands import started
from tracking_stores import QUIET

from pipelines.run_ui import free_port
from tracking.mlflow_runs import MlflowWriter

pytestmark = [QUIET, pytest.mark.slow]

SECRET, OWN = b"s3cr3t", b"<html>own</html>"
BESIDE = "key"
"""A file in the state folder, which no request may reach."""
EXPERIMENTS = "/api/2.0/mlflow/experiments"


class Ui(NamedTuple):
    """A server, and what lies behind it."""

    port: int
    run: str
    artifacts: Path
    """Of that run."""

    def ask(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer; the path goes out as it is, which a browser or `urllib` would tidy up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True)
            head = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json", **(headers or {})}
            for name, value in {**head, "Content-Length": str(len(body))}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def experiments(self) -> set[str]:
        """Names of all that the store has."""
        status, answer = self.ask("GET", f"{EXPERIMENTS}/search?max_results=100")
        assert status == 200
        return {found["name"] for found in json.loads(answer)["experiments"]}


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    home = tmp_path_factory.mktemp("served")
    writer = MlflowWriter(None, home)
    writer.experiment("mine")
    run = writer.open_run("key", name="mine", tags={}, started_ms=1)
    writer.artifact(run, "report.html", OWN)
    writer.close_run(run, "FINISHED", 2)
    (home / BESIDE).write_bytes(SECRET)
    process = started("ui", "--port", str(free_port()), home=home)
    family = [psutil.Process(process.pid)]
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[2]
        family += family[0].children(recursive=True)
        port = urlsplit(address).port
        assert port is not None
        yield Ui(port, run, home / "mlartifacts" / run / "artifacts")
    finally:
        process.terminate()
        process.communicate(timeout=60)
        assert not psutil.wait_procs(family, timeout=10)[1]


def kept(ui: Ui, path: str) -> list[str]:
    """The requests that ask for a file of the run, or for one of the folder of all runs."""
    below = f"{ui.run}/artifacts/{path}"
    return [
        f"/get-artifact?run_uuid={ui.run}&path={path}",
        f"/api/2.0/mlflow-artifacts/artifacts/{below}",
        f"/api/2.0/mlflow-artifacts/artifacts?path={below}",
        f"/ajax-api/2.0/mlflow/artifacts/list?run_id={ui.run}&path={path}",
    ]


def test_who_asks_rightly_is_answered(ui: Ui) -> None:
    found = [ui.ask("GET", path) for path in kept(ui, "report.html")]
    assert [status for status, _ in found] == [200] * 4
    assert [body for _, body in found[:2]] == [OWN] * 2


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "8.8.8.8", ""])
@pytest.mark.parametrize("path", ["/", f"{EXPERIMENTS}/search?max_results=5"])
def test_a_host_that_is_not_this_machine_is_refused(ui: Ui, host: str, path: str) -> None:
    status, said = ui.ask("GET", path, headers={"Host": host})
    assert status in (400, 403) and (status == 403 or not host)
    assert b"mine" not in said


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1.evil.example", "null"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_page_of_another_site_changes_nothing(ui: Ui, origin: str, kind: str) -> None:
    body = json.dumps({"name": "planted"}).encode()
    headers = {"Origin": origin, "Content-Type": kind}
    assert ui.ask("POST", f"{EXPERIMENTS}/create", body=body, headers=headers)[0] == 403
    assert "planted" not in ui.experiments()


def test_its_own_page_may_change_something(ui: Ui) -> None:
    body = json.dumps({"name": "by hand"}).encode()
    headers = {"Origin": f"http://127.0.0.1:{ui.port}"}
    assert ui.ask("POST", f"{EXPERIMENTS}/create", body=body, headers=headers)[0] == 200
    assert "by hand" in ui.experiments()


OUT = {
    "plain": "../../../",
    "escaped": "..%2f..%2f..%2f",
    "escaped dots": "%2e%2e/%2e%2e/%2e%2e/",
    "escaped twice": "..%252f..%252f..%252f",
    "backslashes": "..%5c..%5c..%5c",
}


@pytest.mark.parametrize("way", OUT)
def test_no_path_leads_out_of_the_artifacts(ui: Ui, way: str) -> None:
    assert (ui.artifacts / "../../.." / BESIDE).read_bytes() == SECRET
    for path in kept(ui, f"{OUT[way]}{BESIDE}"):
        status, said = ui.ask("GET", path)
        # A backslash is a letter here: there is no such file, and its folder is empty.
        assert status == 400 or (way == "backslashes" and status in (404, 200)), (path, said)
        assert SECRET not in said and BESIDE not in [one.get("path") for one in listed(said)]


def listed(said: bytes) -> list[dict[str, str]]:
    """The files of an answer that lists some."""
    found: list[dict[str, str]] = json.loads(said).get("files", [])
    return found


@pytest.mark.parametrize("path", ["/etc/passwd", "%2fetc%2fpasswd", "file:///etc/passwd"])
def test_no_absolute_path_is_served(ui: Ui, path: str) -> None:
    for wanted in (f"/get-artifact?run_uuid={ui.run}&path={path}", f"/api/2.0/mlflow-artifacts/artifacts/{path}"):
        status, said = ui.ask("GET", wanted)
        assert status in (400, 404) and b"root:" not in said


@pytest.mark.parametrize(("name", "path"), [("link.txt", "link.txt"), ("folder", "folder"), ("more", f"more/{BESIDE}")])
def test_what_lies_behind_a_link_is_not_served(ui: Ui, name: str, path: str) -> None:
    outside = ui.artifacts.parents[2]
    link = ui.artifacts / name
    link.symlink_to(outside / BESIDE if name == "link.txt" else outside)
    try:
        assert SECRET in (link.read_bytes() if link.is_file() else (link / BESIDE).read_bytes())
        for wanted in kept(ui, path):
            status, said = ui.ask("GET", wanted)
            assert status == 400 and b"outside the artifact directory" in said, (wanted, status, said)
            assert SECRET not in said
    finally:
        link.unlink()


def test_nothing_is_written_through_a_path_or_a_link(ui: Ui) -> None:
    link = ui.artifacts / "way-out"
    link.symlink_to(ui.artifacts.parents[2])
    own = f"/api/2.0/mlflow-artifacts/artifacts/{ui.run}/artifacts/own.txt"
    assert ui.ask("PUT", own, body=b"own")[0] == 200 and (ui.artifacts / "own.txt").read_bytes() == b"own"
    try:
        for path in (f"{OUT['plain']}planted", f"{OUT['escaped']}planted", "way-out/planted"):
            wanted = f"/api/2.0/mlflow-artifacts/artifacts/{ui.run}/artifacts/{path}"
            assert ui.ask("PUT", wanted, body=b"planted")[0] == 400, path
    finally:
        link.unlink()
    assert not list(ui.artifacts.parents[2].rglob("planted"))
