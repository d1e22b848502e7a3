"""A search ends with its report, which can be written again, is in MLflow too, and is drawn by a real browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import find_browser

from tracking.analysis.data import load
from tracking.analysis.study import analyse
from tracking.report import key_figures, panels_of

REGATTA = str(Path(sys.executable).with_name("regatta"))
PATIENCE = 240
SEARCH = [
    "search", "--config", "smoke", "--study", "reported", "--search.batch_sizes", "[64, 256]",
    "--search.schedules", "[constant]", "--search.trials", "3", "--training.epochs", "2", "--cluster.workers", "1",
]  # fmt: skip
PROBE = """
<script type="module">
const at = mark => {
  const box = mark.getBoundingClientRect();
  return {bubbles: true, clientX: box.x, clientY: box.y};
};
const said = window.drawn.then(async () => {
  const settled = () => new Promise(done => setTimeout(done, 100));
  const timeline = document.getElementById("figure-timeline");
  const bars = [...timeline.querySelectorAll(".mark-rect.role-mark path")];
  const faint = () => bars.filter(bar => Number(bar.getAttribute("opacity")) < 0.5).length;
  const entry = timeline.querySelector(".role-legend-symbol path"), before = faint();
  entry.dispatchEvent(new MouseEvent("click", at(entry)));
  await settled();
  const after = faint();
  bars[0].dispatchEvent(new PointerEvent("pointermove", at(bars[0])));
  await settled();
  const folded = document.createElement("details");
  document.body.append(folded);
  dispatchEvent(new Event("beforeprint"));
  return {
    width: innerWidth,
    reach: document.documentElement.scrollWidth,
    marks: Object.fromEntries([...document.querySelectorAll(".figure")].map(figure =>
      [figure.id, figure.querySelectorAll(".role-mark path, .role-mark line").length])),
    wider: [...document.querySelectorAll(".figure")].filter(figure =>
      figure.querySelector("svg").getBoundingClientRect().width > figure.clientWidth + 1).map(figure => figure.id),
    before, after, bars: bars.length,
    tip: document.getElementById("vg-tooltip-element")?.innerText,
    unfolded: folded.open,
    fetched: performance.getEntriesByType("resource").map(entry => entry.name),
  };
});
said.catch(error => ({error: String(error)})).then(found => parent.postMessage(JSON.stringify(found), "*"));
</script>
"""
"""What a reader does and sees, told to the page around."""
FRAME = """<!doctype html>
<body>
<script>onmessage = event => document.body.dataset.found = event.data;</script>
<iframe src="probed.html" width="{width}" height="900" style="border: 0"></iframe>
</body>
"""
"""No window is as narrow as a phone, but a frame may be."""


def regatta(*words: str, home: Path) -> str:
    """What the command says; it must go well."""
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [REGATTA, *words], cwd=home.parent, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a small study whose search has ended, and what the search said."""
    home = tmp_path_factory.mktemp("reported") / "home"
    yield home / "reported", regatta(*SEARCH, home=home)


def _one(home: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(home / "mlflow.db")
    try:
        return [row[0] if len(row) == 1 else row for row in connection.execute(statement)]
    finally:
        connection.close()


@pytest.mark.slow
def test_a_search_ends_with_the_path_of_its_report(reported: tuple[Path, str]) -> None:
    folder, said = reported
    assert said.splitlines()[-1] == f"report: {folder / 'report.html'}"
    figures = {figure.name for panel in panels_of(analyse(load(folder))) for figure in panel.figures}
    assert {path.stem for path in (folder / "report").iterdir()} == figures >= {"steps", "curves", "timeline"}


@pytest.mark.slow
def test_mlflow_has_the_report_and_the_key_figures_of_the_search(reported: tuple[Path, str]) -> None:
    home, folder = reported[0].parent, reported[0]
    (parent,) = set(_one(home, "SELECT value FROM tags WHERE key = 'mlflow.parentRunId'"))
    kept = home / "mlartifacts" / parent / "artifacts"
    assert (kept / "report.html").read_bytes() == (folder / "report.html").read_bytes()
    assert {path.name for path in (kept / "report").iterdir()} == {path.name for path in (folder / "report").iterdir()}
    found = dict(_one(home, f"SELECT key, value FROM latest_metrics WHERE run_uuid = '{parent}'"))
    expected = key_figures(analyse(load(folder)))
    assert expected and {name: found[name] for name in expected} == expected


@pytest.mark.slow
def test_a_report_is_written_again_whenever_it_is_asked_for(reported: tuple[Path, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(reported[0].parent, home)
    page = home / "reported" / "report.html"
    page.unlink()
    said = regatta("report", "--study", "reported", home=home)
    assert said.startswith("Use batch size") and f"report: {page}" in said.splitlines()
    assert page.is_file()


@pytest.mark.slow
def test_a_machine_without_the_study_reports_from_mlflow_alone(reported: tuple[Path, str], tmp_path: Path) -> None:
    home, uri = tmp_path / "home", f"sqlite:///{reported[0].parent / 'mlflow.db'}"
    said = regatta("report", "--study", "reported", "--uri", uri, home=home)
    assert f"report: {home / 'reported' / 'report.html'}" in said.splitlines()
    assert said.splitlines()[0] == reported[1].splitlines()[-len(said.splitlines())]
    assert not (home / "reported" / "study.db").exists()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_every_figure_within_its_window(reported: tuple[Path, str], tmp_path: Path, width: int) -> None:
    found = seen(reported[0] / "report.html", tmp_path, width)
    figures = {figure.name for panel in panels_of(analyse(load(reported[0]))) for figure in panel.figures}
    assert found["width"] == width and found["reach"] <= width and found["wider"] == []
    assert found["marks"].keys() == {f"figure-{name}" for name in figures} and all(found["marks"].values())
    assert found["before"] == 0 < found["after"] < found["bars"]
    assert found["tip"] and found["unfolded"]
    assert found["fetched"] == []


def seen(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """What the page's reader would see in a window of this width."""
    # The last one: Vega's script holds such a text too.
    before, end, after = page.read_text(encoding="utf-8").rpartition("</body>")
    (folder / "probed.html").write_text(f"{before}{PROBE}{end}{after}", encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
    browser = find_browser()
    assert browser, "tests marked `browser` are skipped without one"
    done = subprocess.run(
        [
            browser,
            *words,
            f"--user-data-dir={folder / 'browser'}",
            "--window-size=1400,1000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    match = re.search(r'<body[^>]* data-found="([^"]*)"', done.stdout)  # As serialized: no quote within.
    assert match, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    assert "error" not in found, found
    return found
