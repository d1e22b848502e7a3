"""The gradient noise scale: unbiased at known states, honest where it is not resolved, and no part of the training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quadratic_module
import torch
from helpers import config_of, train, user_code, weights_of
from numpy.typing import NDArray

from models import rng
from models.array import train_array
from models.config import TrainConfig
from models.frozen import Frozen, derived
from models.fusion import fusable
from models.noise import estimate, finite_factor, noise_scale, stops, unbiased
from models.prepared import prepare
from models.segment import Segment
from models.streams import Streams
from models.train import build_module
from models.vmapped import Stack

# A state whose noise scale is known: d=200, h = c = 1/i, theta = +-0.5. A probe is 8 micro-batches of 4.
D, K, B = 200, 8, 4
CURVATURE = 1.0 / np.arange(1, D + 1)
SQUARE, TRACE, SCALE = 0.409987, 5.878031, 14.3371


def quadratic(**changes: Any) -> TrainConfig:
    """Plain SGD at a constant rate on the noisy quadratic model."""
    base: dict[str, Any] = {
        "model": "Quadratic",
        "data": "Keys",
        "model_args": {"dimensions": D},
        "optimizer_args": {"momentum": 0.0},
        "schedule": "constant",
        "warmup": 0.0,
    }
    return config_of(quadratic_module, **{**base, **changes})


def probes(count: int, *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `count` probes of that state measure: sums of |g_b|^2, and |g_B|^2."""
    random = np.random.default_rng(seed)
    theta = np.where(np.arange(D) % 2 == 0, 0.5, -0.5)
    gradients = CURVATURE * theta + random.standard_normal((count, K, D)) * np.sqrt(CURVATURE / B)
    return (gradients**2).sum((1, 2)), (gradients.mean(1) ** 2).sum(1)


def within(values: NDArray[np.float64], truth: float, *, errors: float = 4.0) -> bool:
    """Whether their mean lies within so many standard errors of the truth."""
    return bool(abs(values.mean() - truth) < errors * values.std(ddof=1) / math.sqrt(len(values)))


# The estimates


def test_both_estimates_are_unbiased_at_a_known_state_and_the_naive_square_is_not() -> None:
    small, big = probes(4000, seed=3)
    squares, traces = unbiased(small, big, b=B, k=K)
    assert within(squares, SQUARE) and within(traces, TRACE)
    assert not within(big, SQUARE) and within(big, SQUARE + TRACE / (B * K))
    assert traces.mean() / big.mean() == pytest.approx(9.91, abs=0.3)  # 31 % too low
    # Var = 4 G'SG/(kb) + 2 tr(S^2)/(k(k-1)b^2)
    assert squares.std() == pytest.approx(0.2030, rel=0.05)


def test_the_estimates_are_those_of_two_batch_sizes() -> None:
    small, big = probes(5, seed=0)
    one = small / K
    squares, traces = unbiased(small, big, b=B, k=K)
    np.testing.assert_allclose(squares, (B * K * big - B * one) / (B * K - B))
    np.testing.assert_allclose(traces, (one - big) / (1 / B - 1 / (B * K)))


def test_the_interval_of_100_probes_holds_the_truth_as_often_as_it_says() -> None:
    small, big = probes(10_000, seed=4)
    squares, traces = unbiased(small, big, b=B, k=K)
    found = [estimate(squares[at : at + 100], traces[at : at + 100]) for at in range(0, 10_000, 100)]
    assert all(one.resolved and one.reason is None and one.probes == 100 for one in found)
    scales = [one.noise_scale for one in found if one.noise_scale is not None]
    np.testing.assert_allclose(np.quantile(scales, [0.05, 0.5, 0.95]), [13.3, 14.3, 15.8], atol=0.6)
    held = sum(one.low <= SCALE <= one.high for one in found if one.low is not None and one.high is not None)
    assert 88 <= held <= 99


@pytest.mark.parametrize("mean", [-0.05, 0.0, 0.01], ids=["negative", "zero", "within its error"])
def test_a_gradient_that_noise_hides_gives_a_lower_bound_and_nothing_more(mean: float) -> None:
    noise = np.random.default_rng(0).standard_normal(100)
    found = estimate(mean + noise - noise.mean(), np.full(100, 6.0))
    assert (found.noise_scale, found.high, found.resolved) == (None, None, False)
    assert found.squared_gradient == pytest.approx(mean)  # not clipped
    assert found.low is not None and 10 < found.low < 60
    assert found.reason is not None and f"above {found.low:.4g}, not resolved" in found.reason


def test_where_even_the_upper_end_of_the_square_is_negative_there_is_no_bound() -> None:
    found = estimate(np.full(100, -1.0), np.full(100, 6.0))
    assert found.low is None and found.reason is not None and "noise scale not resolved" in found.reason


def test_gradients_without_noise_have_the_scale_zero() -> None:
    found = estimate(np.full(100, 2.0), np.zeros(100))
    assert (found.noise_scale, found.low, found.high, found.resolved) == (0.0, 0.0, 0.0, True)


def test_without_replacement_the_noise_of_a_batch_shrinks_by_the_finite_factor() -> None:
    random = np.random.default_rng(1)
    population = random.standard_normal((256, 5)) + 0.3
    centre, trace = population.mean(0), population.var(0).sum()
    drawn = random.permuted(np.tile(np.arange(256), (4000, 1)), axis=1)[:, :64]
    squares = ((population[drawn].mean(1) - centre) ** 2).sum(1)
    assert within(squares, trace / 64 * finite_factor(64, 256))
    assert not within(squares, trace / 64)
    assert (finite_factor(256, 256), finite_factor(1, 256)) == (0.0, 1.0)


# The quadratic model as a problem to train


def test_sgd_on_the_quadratic_module_has_the_loss_of_the_closed_form() -> None:
    runs, steps, rate, batch = 150, 300, 0.7, 8
    modules = []
    for run in range(runs):
        rng.seed_everything(run)
        modules.append(quadratic_module.Quadratic(D))
    stack = Stack(modules, layouts={})
    optimizer = torch.optim.SGD(stack.trained, lr=rate)
    keys = torch.arange(batch).expand(runs, batch)
    for step in range(steps):
        losses, _ = stack.train([keys + step * batch], 0, Streams([]))
        (stack.trained[0].grad,) = torch.autograd.grad(losses.sum(), stack.trained)
        optimizer.step()
    theta = stack.trained[0].detach().double().numpy()
    assert within(0.5 * (theta**2) @ CURVATURE, 0.166261)


def test_the_noise_of_the_quadratic_module_is_normal_and_new_in_every_step() -> None:
    keys, seeds = torch.arange(2000), (torch.tensor(5), torch.tensor(6))
    one, other = (quadratic_module.normals(keys, seed, 201, torch.float64).numpy() for seed in seeds)
    count = one.size
    assert abs(one.mean()) < 4 / math.sqrt(count) and abs((one * other).mean()) < 4 / math.sqrt(count)
    assert abs(one.var() - 1) < 4 * math.sqrt(2 / count) and abs((one**4).mean() - 3) < 4 * math.sqrt(96 / count)
    neighbours = [(one[1:] * one[:-1]).mean(), (one[:, 1:] * one[:, :-1]).mean(), (one[:, :100] * one[:, 101:]).mean()]
    assert max(map(abs, neighbours)) < 5 / math.sqrt(count / 2)
    # Whatever stands beside it.
    np.testing.assert_array_equal(quadratic_module.normals(keys[7:9], seeds[0], 201, torch.float64).numpy(), one[7:9])


def test_quadratic_modules_train_alone_and_in_an_array(tmp_path: Path) -> None:
    config = quadratic(data_args={"examples": 256}, precision="64-true", learning_rate=0.7)
    assert fusable([config]) is None
    alone = train(config, tmp_path / "alone")
    assert alone.status == "COMPLETE" and [point["step"] for point in alone.curve] == [32, 64, 96]
    segments = [Segment(trial=i, config=config, folder=str(tmp_path / "array")) for i in range(2)]
    for member in train_array(segments):
        assert member.tags["tier"] == "array" and member.curve[-1]["val_loss"] == pytest.approx(
            alone.curve[-1]["val_loss"], rel=1e-9
        )


def test_the_quadratic_module_has_the_noise_scale_of_the_closed_form() -> None:
    config = quadratic(model_args={"dimensions": D, "start": 0.5})
    found = noise_scale({"config": config.to_json(), "windows": [0.0], "probes": 200, "micro_batch": B})
    (window,) = found["windows"]
    # Four standard errors, of which |G|^2 has nearly all.
    assert window["squared_gradient"] == pytest.approx(SQUARE, abs=4 * 0.2030 / math.sqrt(200))
    assert window["trace"] == pytest.approx(TRACE, rel=0.05)
    assert window["low"] < SCALE * 1.1 and window["high"] > SCALE / 1.1
    assert found["reason"] is None and (found["micro_batches"], found["micro_batch"]) == (K, B)


@pytest.mark.parametrize("name", ["Quadratic", "Net"])
def test_duplicating_every_example_of_a_batch_leaves_the_gradient_unchanged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    config = quadratic() if name == "Quadratic" else config_of(code, model_args={"dropout": 0.0})
    gradients = []
    for indices in (torch.arange(8), torch.arange(8).repeat(2)):
        frozen = Frozen(config, prepare(config))
        (batch,) = frozen.batches([indices], seed=0)
        gradients.append(derived(frozen.loss(batch), frozen.parameters))
    for one, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(one, twice, rtol=1e-4, atol=1e-6)


# Probing a training


def test_the_windows_lie_at_their_shares_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    found = noise_scale({"config": config.to_json()})
    assert [w["step"] for w in found["windows"]] == [0, 10, 20, 39]
    assert [w["examples"] for w in found["windows"]] == [0, 80, 156, 300]
    assert [w["progress"] for w in found["windows"]] == pytest.approx([0, 10 / 39, 20 / 39, 1])
    assert all(w["probes"] == 100 and w["trace"] > 0 for w in found["windows"])
    facts = {name: found[name] for name in ("batch_size", "learning_rate", "micro_batch", "training_examples")}
    assert facts == {"batch_size": 8, "learning_rate": 0.05, "micro_batch": 8, "training_examples": 100}
    assert found["finite_factor"] == pytest.approx(92 / 99)
    assert (found["batch_norm"], found["reason"]) == ("evaluation statistics", None)
    # What is drawn depends on the configuration alone.
    again = noise_scale({"config": config.to_json(), "windows": [0.25]})
    assert again["windows"] == found["windows"][1:2]


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"optimizer": "adam", "evaluations": 1}], ids=str)
def test_a_probed_training_ends_with_the_same_weights_to_the_bit(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), **changes)
    expected = weights_of(train(config, tmp_path / "alone"))
    shares, folder = (0.0, 0.25, 0.5, 1.0), tmp_path / "probed"
    last = None
    for last in stops(config, prepare(config), shares=shares, folder=str(folder)):
        if last.step == 0:
            before = torch.get_rng_state()
            noise_scale({"config": config.to_json(), "windows": [0.0]})
            assert torch.equal(before, torch.get_rng_state())
        torch.rand(7)  # It does not matter either what else happens meanwhile.
    assert last is not None and last.state is not None and last.progress == 1.0
    assert last.state.keys() == expected.keys()
    assert all(torch.equal(last.state[name], expected[name]) for name in expected)
    assert len(list(folder.iterdir())) == 1


def test_probes_leave_the_buffers_of_the_module_alone() -> None:
    config = quadratic()
    frozen = Frozen(config, prepare(config))
    with frozen.buffers_kept():
        (batch,) = frozen.batches([torch.arange(8)], seed=0)
        frozen.loss(batch)
        assert int(frozen.module.calls) == 1
    assert int(frozen.module.calls) == 0


@pytest.mark.parametrize(
    ("changes", "windows", "reason"),
    [
        ({"model": "Manual"}, 0, "it optimizes by hand"),
        ({"data": "Streamed"}, 0, "its train loader gives batches in an order of its own"),
        ({"model": "Nett"}, 0, "`model.class_path` must name a class"),
        ({"model": "Fails", "model_args": {"how": "nan"}}, 1, "its training ended at step 10 of 39 as DIVERGED"),
        ({"model": "Fails"}, 1, "its training ended at step 5 of 39 as FAILED: user_error: RuntimeError: the user's"),
    ],
    ids=str,
)
def test_what_cannot_be_probed_says_why_and_keeps_what_was_measured(
    changes: dict[str, Any], windows: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), **changes)
    found = noise_scale({"config": config.to_json()})
    assert len(found["windows"]) == windows and found["reason"].startswith(reason)


def test_too_few_probes_are_refused() -> None:
    found = noise_scale({"config": quadratic().to_json(), "probes": 10})
    assert found["reason"] == "`probes` must be at least 100, but got 10."


@pytest.mark.parametrize("data", ["Dicts", "OneByOne", "Augmented", "Transfers"])
def test_data_of_every_shape_can_be_probed(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), data=data, model="TakesDict" if data == "Dicts" else "Net")
    found = noise_scale({"config": config.to_json(), "windows": [0.0], "micro_batches": 2})
    assert found["reason"] is None and len(found["windows"]) == 1


def test_transfer_hooks_are_told_that_this_is_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    settings = {"model_args": {"dropout": 0.0}, "epochs": 1}
    traces = []
    for data in ("Data", "Transfers"):  # The second halves the inputs: so does the gradient of the first layer.
        config = config_of(code, data=data, **settings)
        traces.append(noise_scale({"config": config.to_json(), "windows": [0.0]})["windows"][0]["trace"])
    assert traces[1] < traces[0]


def test_the_probe_builds_the_module_that_the_training_begins_with() -> None:
    config = quadratic(seed_init=5)
    frozen = Frozen(config, prepare(config))
    expected = build_module(config, prepare(config))
    assert torch.equal(frozen.module.theta, expected.theta)
