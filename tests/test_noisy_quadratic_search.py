"""End to end: a search over the noisy quadratic model finds the critical batch size and rate law of its closed form."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from noisy_quadratic import spectrum, sweep

from tracking.analysis.data import load
from tracking.analysis.rate_laws import rate_law
from tracking.analysis.scaling import fit_hyperbola
from tracking.analysis.study import Analysis, analyse

SIZES = [1, 2, 4, 8, 16, 64, 256, 1024]
TARGET = 0.4
PERFECT = 8
"""Batch sizes up to here train on equally many examples, and lie far below the critical one."""
RECIPE = f"""
name: quadratic
model: {{class_path: quadratic_module.Quadratic, init_args: {{dimensions: 200, start: 1.0, power: 0.5}}}}
data: {{class_path: quadratic_module.Keys, init_args: {{examples: 1024}}}}
training: {{epochs: 1, min_steps: 128, evaluations: 128}}
metrics: {{objective: val_loss, direction: min, target: {TARGET}}}
search:
  batch_sizes: {SIZES}
  optimizers: {{sgd: {{momentum: 0.0}}}}
  schedules: [constant]
  learning_rate: {{rule: absolute, low: 0.005, high: 3.0}}
  trials: 32
  refine: 8
  extend: false
  probes: []
tracking: {{mlflow: false, report: false}}
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """What is worked out from a real search."""
    folder = tmp_path_factory.mktemp("quadratic")
    (folder / "quadratic.yaml").write_text(RECIPE)
    shutil.copy(Path(__file__).with_name("quadratic_module.py"), folder)
    command = [str(Path(sys.executable).with_name("regatta")), "search", "--config", "quadratic.yaml"]
    environment = {**os.environ, "REGATTA_HOME": str(folder / "home")}
    called = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert called.returncode == 0, called.stdout + called.stderr
    return analyse(load(folder / "home" / "quadratic"))


@pytest.mark.slow
def test_the_critical_batch_size_is_that_of_the_closed_form_within_a_factor_of_one_and_a_half(found: Analysis) -> None:
    _, steps = sweep(spectrum(200, 0.5), SIZES, TARGET)
    expected = fit_hyperbola(SIZES, steps)
    assert found.overall is not None and found.overall.hyperbola is not None
    measured = found.overall.hyperbola
    assert measured.bracketed and measured.never == 0
    assert expected.critical / 1.5 < measured.critical < expected.critical * 1.5


@pytest.mark.slow
def test_the_rate_grows_with_the_batch_size_in_the_perfect_scaling_window(found: Analysis) -> None:
    assert found.overall is not None
    window = [cell for cell in found.overall.cells if cell.batch_size <= PERFECT]
    optima = [cell.optimum for cell in window if cell.optimum is not None]
    assert len(optima) == 4 and not any(optimum.edge for optimum in optima)
    law = rate_law([cell.batch_size for cell in window], optima, optimizer="sgd")
    assert law.exponent == pytest.approx(1.0, abs=0.15)
    assert "linear" in law.contains


@pytest.mark.slow
def test_beyond_the_window_the_rate_law_bends_down(found: Analysis) -> None:
    (method,) = found.methods
    assert method.law is not None
    assert (method.law.chosen, method.law.residual_trend) == ("saturating", "bends down")
