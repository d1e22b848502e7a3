"""The report of any study can be written, answers its questions with numbers, and says what it lacks."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from pathlib import Path

import pytest
import vl_convert
from study_rows import LASTED, RATES, SIZES, WAITED, study
from tracking_rows import study as ledger_study

from tracking.analysis.cell_checks import Check
from tracking.analysis.data import StudyData
from tracking.analysis.study import Analysis, analyse
from tracking.report import key_figures, panels_of, words, write
from tracking.report.drawing import Panel, batch_colours, log_ticks, plain, thinned
from tracking.report.page import VEGA_LITE, render, vega_script
from tracking.report.panels_steps import steps_panel
from tracking.report.panels_timeline import Pack, covered, stretches_of, timeline_panel
from tracking.report.verdict import facts, headline
from tracking.spans import Span

FULL = study()
SMALL = study(sizes=(32,), schedules=("cosine",))


SCHEMA = "https://vega.github.io/schema/vega-lite/"
"""A name in every specification; nothing is fetched from there."""


def with_rows(data: StudyData, **values: object) -> StudyData:
    return dataclasses.replace(data, trials=[row | values for row in data.trials])


PROBES = {
    "steps": {"16-sgd": 0.002},
    "noise": {
        "windows": [
            {"progress": 0.0, "step": 0, "examples": 0, "noise_scale": 5.0, "low": 3.0, "high": 8.0, "resolved": True},
            {
                "progress": 1.0,
                "step": 9,
                "examples": 900,
                "noise_scale": 80.0,
                "low": 60.0,
                "high": math.inf,
                "resolved": False,
                "reason": "the mean gradient is lost in the noise",
            },
        ],
        "batch_size": 64,
        "learning_rate": 0.1,
        "optimizer": "sgd",
    },
    "sharpness": [
        {"trial": 4, "ascent": 0.02, "reason": None},
        {"trial": 22, "ascent": 0.03, "reason": None},
        {"trial": 31, "ascent": None, "reason": "its checkpoint is gone"},
    ],
    "largest": {"largest": 64, "tried": [{"batch_size": 64, "fits": True}, {"batch_size": 128, "fits": False}]},
    "memory": [{"batch_size": 16, "peak_bytes": 2**24}, {"batch_size": 64, "peak_bytes": 2**25}],
}

CALIBRATION = {"target": 0.5, "easier_target": 0.7, "cell": "b16-sgd-constant", "best": [0.5] * 5, "seconds": 12.0}

STUDIES = {
    "full": FULL,
    "probed": dataclasses.replace(FULL, probes=PROBES),
    "gaps": with_rows(FULL, gap_val_loss=0.02),
    "gaps of some": dataclasses.replace(
        FULL,
        trials=[
            row | ({"gap_val_loss": 0.01 * row["number"]} if row["number"] in (4, 22) else {"gap_reason": "a stream"})
            for row in FULL.trials
        ],
    ),
    "two targets": dataclasses.replace(study(easier_target=0.7), calibration=CALIBRATION),
    "an easier target alone in reach": study(sizes=(32, 64), target=1e-9, easier_target=0.7),
    "no workers": dataclasses.replace(SMALL, spans={}),
    "no trials": dataclasses.replace(FULL, trials=[], curves={}, examples=None),
    "three trials": dataclasses.replace(FULL, trials=FULL.trials[:3]),
    "all running": dataclasses.replace(
        with_rows(FULL, status="RUNNING", value=None, steps=None, seconds=None, examples=None, epochs=None), curves={}
    ),
    "half running": dataclasses.replace(
        FULL,
        trials=[
            row | {"status": "RUNNING", "value": None, "steps": None, "seconds": None} if row["number"] % 2 else row
            for row in FULL.trials
        ],
    ),
    "all failed": dataclasses.replace(with_rows(FULL, status="FAILED", value=None), curves={}),
    "all diverged": with_rows(FULL, status="DIVERGED"),
    "no target": study(target=None),
    "a target out of reach": study(target=1e-9),
    "one batch size": study(sizes=(32,)),
    "one schedule": study(schedules=("cosine",)),
    "one cell": SMALL,
    "own optimizer": with_rows(FULL, optimizer="own", learning_rate=None),
    "more is better": study(direction="max", target=-0.5),
    "no space and no curves": dataclasses.replace(FULL, space={}, curves={}),
}


@functools.cache
def built(case: str) -> tuple[Analysis, dict[str, Panel]]:
    analysis = analyse(STUDIES[case])
    return analysis, {panel.name: panel for panel in panels_of(analysis)}


@pytest.mark.parametrize("case", STUDIES)
def test_every_study_has_all_panels_and_no_number_that_is_none(case: str) -> None:
    analysis, panels = built(case)[0], list(built(case)[1].values())
    assert [panel.number for panel in panels] == ["1", "2", "3", "4", "5", "6", "7", "7b", "8", "9", "10", "11", "13"]
    said = [*headline(analysis), *(panel.sentence for panel in panels), *(note for p in panels for note in p.notes)]
    for sentence in said:
        assert sentence.endswith("."), sentence
        assert not re.search(r"\b(nan|inf|None)\b", sentence), sentence
    for figure in (figure for panel in panels for figure in panel.figures):
        json.dumps(figure.spec, allow_nan=False)
    assert all(math.isfinite(value) for value in key_figures(analysis).values())
    assert dict(facts(analysis))["study"] == STUDIES[case].name


@pytest.mark.parametrize(
    ("case", "panel", "said"),
    [
        ("no target", "steps", "No target is set"),
        ("a target out of reach", "steps", "No trial reached the target val_loss ≤ 1e-09"),
        ("all failed", "finalists", "No trial has a result yet"),
        ("own optimizer", "rates", "brings its own optimizer"),
        ("one batch size", "rate-law", "at least 2 batch sizes"),
        ("one schedule", "schedules", "no other schedule"),
        ("more is better", "generalization", "val_loss"),
        ("no trials", "curves", "No trial has an evaluation yet"),
        ("no workers", "timeline", "No trial of this study says which worker trained it"),
    ],
)
def test_what_a_study_lacks_is_said_in_the_panel(case: str, panel: str, said: str) -> None:
    assert said in built(case)[1][panel].sentence


def test_a_single_seed_is_never_called_sure() -> None:
    said = headline(built("full")[0])
    assert any("one seed per trial" in sentence for sentence in said)
    (scatter,) = (sentence for sentence in said if "scatter" in sentence)
    assert scatter.endswith("another seed, or other validation examples, may move its best value by more.")
    assert "the best" in scatter or "the next best cell" in scatter


def test_a_cell_that_is_alone_is_ahead_of_nobody() -> None:
    analysis = built("full")[0]
    (scatter,) = (one for one in headline(dataclasses.replace(analysis, cells=analysis.ranked[:1])) if "scatter" in one)
    assert "cell" not in scatter and ". That is the scatter within one training alone" in scatter


def test_the_recommendation_names_batch_size_schedule_and_rate() -> None:
    first = headline(built("full")[0])[0]
    assert first.startswith("Use batch size") and "schedule cosine" in first and "peak learning rate of" in first


def test_a_critical_batch_size_is_printed_with_what_it_depends_on() -> None:
    panel = built("full")[1]["steps"]
    text = " ".join(panel.notes)
    assert "critical batch size" in panel.sentence
    for part in (
        "target (val_loss ≤ 0.5)",
        "tuning protocol",
        "optimizer (sgd)",
        "schedule (constant",
        "weight decay (0)",
    ):
        assert part in text


def test_both_targets_stand_beside_each_other() -> None:
    panel, found = built("two targets")[1]["steps"], key_figures(built("two targets")[0])
    assert panel.table is not None and len(panel.table.rows) == len(SIZES) - 1
    assert panel.table.columns == [
        "from", "to", "steps to val_loss ≤ 0.5", "ratio per doubling", "regime",
        "steps to val_loss ≤ 0.7", "ratio per doubling", "regime",
    ]  # fmt: skip
    assert panel.table.rows[0][4] == panel.table.rows[0][7] == "diminishing returns"
    assert any("To the easier target val_loss ≤ 0.7, the critical batch size is" in note for note in panel.notes)
    assert found["critical_batch_size_easier_target"] == pytest.approx(128, rel=0.15)
    assert "critical_batch_size_easier_target" not in key_figures(built("full")[0])


def test_the_head_says_how_the_target_was_set() -> None:
    found = dict(facts(built("two targets")[0]))
    assert found["target"] == "val_loss ≤ 0.5 (found before the search from 5 trainings of b16-sgd-constant, in 12 s)"
    assert found["easier target"] == "val_loss ≤ 0.7"
    assert dict(facts(built("full")[0]))["target"] == "val_loss ≤ 0.5 (set in the recipe, before the search)"


def test_the_best_of_all_schedules_comes_with_a_word_on_luck() -> None:
    assert any("luck" in note for note in built("full")[1]["steps"].notes)
    assert not any("luck" in note for note in built("one schedule")[1]["steps"].notes)


def test_the_gap_of_every_trial_is_drawn_and_the_best_of_a_cell_is_marked() -> None:
    analysis, panels = built("gaps")
    best = {cell.best["number"] for cell in analysis.cells if cell.best}
    (figure,) = [figure for figure in panels["generalization"].figures if figure.name == "gap"]
    complete = {row["number"] for row in FULL.trials if row["status"] == "COMPLETE"}
    assert {row["trial"] for row in figure.data["rows"]} == complete and best < complete
    assert {row["trial"] for row in figure.data["rows"] if row["best"]} == best
    assert any("0.02 at batch size 16 and 0.02 at batch size 1,024" in note for note in panels["generalization"].notes)
    some = built("gaps of some")[1]["generalization"]
    (figure,) = [figure for figure in some.figures if figure.name == "gap"]
    assert {row["trial"]: row["best"] for row in figure.data["rows"]} == {4: False, 22: True}
    assert "Not measured everywhere: a stream." in some.notes


def test_what_a_probe_could_not_measure_is_said() -> None:
    assert "Not measured everywhere: its checkpoint is gone." in built("probed")[1]["generalization"].notes
    without = "No trial of this study was validated on training examples too, so there is no generalization gap."
    assert without in built("full")[1]["generalization"].notes


def test_a_batch_size_that_memory_limits_says_so() -> None:
    assert "where memory ends" in built("probed")[1]["seconds"].sentence
    assert "ends" not in built("full")[1]["seconds"].sentence


def test_the_timeline_has_a_bar_for_every_array_and_says_how_busy_workers_were() -> None:
    panel = built("full")[1]["timeline"]
    bars = panel.figures[0].data["packs"]
    assert len(bars) == 2 * len(SIZES) and {bar["trials"] for bar in bars} == {len(RATES)}
    assert (bars[0]["begin"], bars[-1]["end"]) == (0.0, (7 * LASTED + 6 * WAITED) / 60)
    assert panel.sentence == "2 workers trained for 91 % of the 11.5 min between the first start and the last end."


def test_waits_at_rungs_are_not_in_the_timeline() -> None:
    (row,) = FULL.trials[:1]
    trained = [Span(100.0, 110.0, "a"), Span(150.0, 170.0, "b"), Span(180.0, 200.0, "a")]
    data = dataclasses.replace(FULL, trials=[row], spans={row["number"]: trained})
    panel = timeline_panel(analyse(data))
    assert panel.sentence == (
        "2 workers trained for 25 % of the 100 s between the first start and the last end; "
        "for the last 30 s one of them worked alone."
    )
    bars = panel.figures[0].data["packs"]
    assert [(bar["begin"], bar["end"], bar["worker"]) for bar in bars] == [(0, 10, "a"), (50, 70, "b"), (80, 100, "a")]
    assert "1 trial in 3 bars" in panel.notes[0]


def packs(*spans: tuple[str, float, float]) -> list[Pack]:
    return [Pack(worker=name, batch_size=8, begin=begin, end=end, trials=1) for name, begin, end in spans]


@pytest.mark.parametrize(
    ("spans", "stretches"),
    [
        ([("a", 0, 10), ("a", 15, 20)], 1),
        ([("a", 0, 10), ("b", 0, 5), ("b", 12, 20)], 1),
        ([("a", 0, 10), ("b", 100, 110)], 2),
        ([("a", 0, 10), ("b", 2, 5), ("c", 100, 110), ("d", 100, 120), ("d", 130, 140)], 2),
    ],
)
def test_a_pause_splits_the_timeline_only_where_all_workers_are_new(
    spans: list[tuple[str, float, float]], stretches: int
) -> None:
    assert len(stretches_of(packs(*spans))) == stretches


def test_a_worker_is_busy_once_at_a_time() -> None:
    assert covered([(0, 10), (5, 12), (20, 21), (20.5, 20.6)]) == 13
    assert covered([]) == 0
    (work,) = stretches_of(packs(("a", 0, 10), ("b", 0, 4), ("a", 10, 16)))
    assert (work.busy, work.alone, work.workers) == (20, 12, ["a", "b"])


@pytest.mark.parametrize("case", ["probed", "one cell"])
def test_every_legend_that_is_clicked_answers(case: str) -> None:
    for figure in (figure for panel in built(case)[1].values() for figure in panel.figures):
        drawn = json.dumps(vl_convert.vegalite_to_vega(figure.spec, vl_version=VEGA_LITE))
        if '"bind": "legend"' in json.dumps(figure.spec):
            assert re.search(r'_legend_symbols", "interactive": true', drawn), figure.name


def test_cells_that_never_arrive_stand_at_the_top() -> None:
    rows = [row for row in FULL.trials if row["batch_size"] > 16 or row["index"] == 0]
    data = dataclasses.replace(FULL, trials=rows, metrics={**FULL.metrics, "target": 0.02})
    slow = dataclasses.replace(data, curves={n: c[:150] if n < 18 else c for n, c in data.curves.items()})
    cells = steps_panel(analyse(slow)).figures[0].data["cells"]
    never = [row for row in cells if row["outcome"] == "never"]
    assert never and {row["batch_size"] for row in never} == {16}
    assert min(row["steps"] for row in never) > max(row["steps"] for row in cells if row not in never)


def test_probes_are_drawn_where_they_were_taken() -> None:
    with_probes, without = built("probed")[1].values(), built("full")[1].values()
    figures = {figure.name for panel in with_probes for figure in panel.figures}
    assert {"noise", "sharpness", "memory"} <= figures
    assert not {"noise", "sharpness", "memory"} & {figure.name for panel in without for figure in panel.figures}


def test_a_name_cannot_leave_its_place_in_the_page() -> None:
    name = "</script><img src=x onerror=alert(1)>"
    rows = [row | {"schedule": name, "cell": f"b{row['batch_size']}"} for row in SMALL.trials]
    analysis = analyse(dataclasses.replace(SMALL, name=name, trials=rows))
    check = Check(name="edge", cell=None, sentence=f"{name} `x`.", severity="warning")
    page = render(
        title=name, verdict=headline(analysis), facts=facts(analysis), checks=[check], panels=panels_of(analysis)
    )
    assert "<img src=x" not in page and page.count("</script>") == 2


def test_every_figure_is_valid_vega_lite() -> None:
    for figure in (figure for panel in built("probed")[1].values() for figure in panel.figures):
        figure.chart.to_dict(validate=True)


def test_warnings_stand_in_the_panel_they_concern() -> None:
    rows = [row for row in SMALL.trials if row["index"] < 5]
    analysis = analyse(dataclasses.replace(SMALL, trials=rows))
    panels = {panel.name: panel for panel in panels_of(analysis)}
    assert "edge" in {check.name for check in panels["rates"].warnings}
    assert "edge" not in {check.name for check in panels["curves"].warnings}


def test_key_figures_are_those_that_exist() -> None:
    found = key_figures(built("one schedule")[0])
    assert found["critical_batch_size"] == pytest.approx(128, rel=0.15)
    assert found["lr_batch_exponent"] == pytest.approx(1.0, abs=0.05)
    assert {"economical_batch_size", "time_optimal_batch_size", "steps_to_target"} <= set(found)
    assert "critical_batch_size" not in key_figures(built("no target")[0])
    assert key_figures(built("no trials")[0]) == {}


def test_the_report_of_a_folder_is_one_page_without_a_network_and_its_pictures(tmp_path: Path) -> None:
    with ledger_study(tmp_path, 3) as ledger:
        ledger.set_meta("metrics", {"objective": "val_loss", "direction": "min", "target": 0.5})
    stale = tmp_path / "report" / "old.png"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    files = write(tmp_path)
    page = files.page.read_text(encoding="utf-8")
    assert files.page == tmp_path / "report.html" and files.page.stat().st_size < 3_000_000
    own = page.replace(vega_script(), "")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=|@import|https?:", own.replace(SCHEMA, ""))
    assert page.count("<script>") == 2 and "window.vegaEmbed" in page
    assert files.pictures and all(path.read_bytes().startswith(b"\x89PNG") for path in files.pictures)
    assert not stale.exists() and not list(tmp_path.glob(".report*"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0171, "0.0171"), (12345.6, "12,346"), (3.2e-7, "3.20e-7"), (1.0, "1"), (0, "0"), (math.inf, "never"),
     (math.nan, "–"), (None, "–"), (-0.25, "-0.25"), (999.6, "1,000")],
)  # fmt: skip
def test_numbers_are_written_for_people(value: float | None, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00254, "2.54 ms"), (8e-6, "8 µs"), (0.102, "0.102 s"), (90, "90 s"), (600, "10 min"), (7200, "2 h")],
)
def test_durations_have_a_unit_that_suits_them(value: float, text: str) -> None:
    assert words.seconds(value) == text


def test_each_batch_size_has_a_colour_of_its_own() -> None:
    for amount in (1, 2, 7, 12):
        assert len(set(batch_colours(range(amount)))) == amount


def test_curves_are_thinned_evenly_and_keep_their_ends() -> None:
    kept = thinned(range(1000), at_most=50)
    assert len(kept) == 50 and (kept[0], kept[-1]) == (0, 999)
    assert thinned([1, 2, 3], at_most=50) == [1, 2, 3]


def test_what_is_not_a_number_is_drawn_nowhere() -> None:
    assert plain({"a": math.inf, "b": math.nan, "c": 1 / 3, "d": "x"}) == {
        "a": None,
        "b": None,
        "c": 0.333333,
        "d": "x",
    }


@pytest.mark.parametrize("ends", [(0.017, 0.06), (0.001, 5.0), (1e-6, 1e3), (2.0, 2.0)])
def test_a_logarithmic_axis_has_ticks_within_it(ends: tuple[float, float]) -> None:
    inside = [tick for tick in log_ticks(ends) if ends[0] * 0.5 <= tick <= ends[1] * 2]
    assert 1 <= len(inside) <= 14
