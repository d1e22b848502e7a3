"""What a user's code does to a worker ends its own trial, with a reason, or nothing at all."""

from __future__ import annotations

import os
import resource
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from faulty_searches import FAULTS, ONCE, SECONDS, curve, outcome, search, trials, undisturbed, workers
from tracking_rows import trial

from models.config import TrainConfig
from models.process import put_back
from search.cluster import connected
from search.cluster_config import ClusterConfig
from search.dask_executor import DaskExecutor
from search.failure import SearchFailed

SHARE = {resource.RLIMIT_RSS: 1_600_000_000}
"""What Dask takes for the machine's memory; the system itself does not enforce it."""


@pytest.mark.slow
def test_every_fault_ends_its_own_trial_with_its_kind_of_reason(tmp_path: Path) -> None:
    faults = "{'32': nan, '64': raise, '128': segv, '256': exit0, '512': oom}"
    words = ["--search.batch_sizes", "[16, 32, 64, 128, 256, 512]", "--cluster.workers", "2"]
    code, out, err = search(tmp_path, FAULTS, faults, "--training.min_steps", "20", *words)
    assert (code, err) == (0, ""), out
    assert outcome(tmp_path) == {
        "b16": ("COMPLETE", ""),
        "b32": ("DIVERGED", "diverged"),
        "b64": ("FAILED", "user_error"),
        "b128": ("FAILED", "crash"),
        "b256": ("FAILED", "user_error"),
        "b512": ("OOM", "oom_gpu"),
    }
    reasons = {row["cell"].split("-")[0]: row["result"]["reason"] for row in trials(tmp_path)}
    assert "KeyError: 'label'" in reasons["b64"] and "faulty.py" in reasons["b64"]
    assert "(SIGSEGV)" in reasons["b128"]
    assert "sys.exit(0)" in reasons["b256"]


@pytest.mark.slow
def test_a_worker_killed_in_mid_segment_leaves_no_trace_in_any_curve(tmp_path: Path) -> None:
    # A short segment ends in a checkpoint before the step at which the worker dies.
    words = [SECONDS, "0.02", "--search.segment_seconds", "0.5", "--model.init_args.at_step", "100"]
    killed = tmp_path / "killed"
    words += [FAULTS, "{any: kill}", ONCE, str(killed), "--search.batch_sizes", "[16, 32]"]
    code, out, err = search(tmp_path / "home", *words)
    assert (code, err) == (0, ""), out
    rows = trials(tmp_path / "home")
    assert [row["status"] for row in rows] == ["COMPLETE"] * 2
    workers = [part["worker"].rpartition(":")[2] for row in rows for part in row["segments"]]
    assert killed.read_text() in workers and len(set(workers)) == 2
    for row in rows:
        assert curve(row["segments"]) == undisturbed(row, tmp_path)


@pytest.mark.slow
def test_a_training_that_takes_more_than_its_share_of_the_memory_is_stopped_and_told(tmp_path: Path) -> None:
    words = [FAULTS, "{'64': memory}", "--search.batch_sizes", "[16, 64]"]
    code, out, err = search(tmp_path, *words, limits=SHARE)
    assert code == 0, out + err
    assert outcome(tmp_path) == {"b16": ("COMPLETE", ""), "b64": ("OOM", "oom_host")}
    assert "nearly all of its share of the memory" in trials(tmp_path)[1]["result"]["reason"]


@pytest.mark.slow
def test_memory_that_a_smaller_part_does_not_take_is_enough_for_the_same_batch_in_parts(tmp_path: Path) -> None:
    words = [FAULTS, "{'64': memory}", "--search.batch_sizes", "[16, 64]", "--search.accumulate", "true"]
    code, out, err = search(tmp_path, *words, limits=SHARE)
    assert (code, err) == (0, ""), out
    assert (
        "out of memory at batch size 64 with 64 examples at once: from now on trials train in parts of at most 32"
        in (out)
    )
    rows = trials(tmp_path)
    assert [(row["status"], row["config"]["train"]["accumulate"]) for row in rows] == [("COMPLETE", 1), ("COMPLETE", 2)]


@pytest.mark.slow
def test_what_does_not_fit_is_left_out_before_the_first_trial_and_stays_so(tmp_path: Path) -> None:
    words = ["--model.class_path", "hungry.Keeping", "--model.init_args", "{mebibytes: 16}"]
    words += ["--data.class_path", "hungry.Sixty", "--search.batch_sizes", "[4, 60]", "--tracking.report", "true"]
    code, out, err = search(tmp_path, *words, limits=SHARE)
    assert (code, err) == (0, ""), out
    assert "batch size 60 does not fit into memory with 60 examples at once" in out
    assert outcome(tmp_path) == {"b4": ("COMPLETE", "")}
    page = (tmp_path / "faulty" / "report.html").read_text()
    assert "batch size 60 and larger: do not fit into memory" in page
    code, out, _ = search(tmp_path, *words, limits=SHARE)
    assert code == 0 and "1 trials, all done before" in out


@pytest.mark.slow
def test_a_worker_that_keeps_most_of_its_memory_goes_on_working(tmp_path: Path) -> None:
    words = [FAULTS, "{'64': leak}", "--search.batch_sizes", "[64, 128, 256]"]
    code, out, err = search(tmp_path, *words, limits=SHARE)
    assert (code, err) == (0, ""), out
    assert set(outcome(tmp_path).values()) == {("COMPLETE", "")}
    assert len({part["worker"] for row in trials(tmp_path) for part in row["segments"]}) == 1


@pytest.mark.slow
def test_what_a_training_does_to_its_process_does_not_reach_the_next_one(tmp_path: Path) -> None:
    words = [FAULTS, "{'64': tamper}", "--search.batch_sizes", "[64, 128]"]
    code, out, err = search(tmp_path / "home", *words)
    assert code == 0 and len(out) > 1 << 21 and len(err) > 1 << 21
    _, after = trials(tmp_path / "home")
    assert (after["status"], after["cell"]) == ("COMPLETE", "b128-sgd-constant")
    assert curve(after["segments"]) == undisturbed(after, tmp_path)


@pytest.mark.slow
def test_trials_that_all_fail_end_the_search_with_their_reason(tmp_path: Path) -> None:
    code, out, err = search(tmp_path, FAULTS, "{any: raise}", "--search.trials", "12")
    assert (code, err) == (1, "")
    assert "5 trials in a row failed" in out and "KeyError: 'label'" in out
    assert "to go on: regatta search" in out


@pytest.mark.slow
def test_what_kills_its_worker_before_any_training_is_a_sentence() -> None:
    with (
        connected(ClusterConfig(workers=1, dashboard=False), paths=[]) as client,
        pytest.raises(ValueError, match=r"`os\._exit` must leave its worker .* so: exit code 3\."),
    ):
        DaskExecutor(client).call("os._exit", 3)


@pytest.mark.slow
def test_a_worker_that_dies_while_it_starts_is_a_sentence() -> None:
    over = threading.Event()

    def hunt() -> None:
        while not over.wait(0.05):
            for worker in workers(os.getpid()):
                with suppress(psutil.NoSuchProcess):
                    worker.kill()

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        with (
            pytest.raises(SearchFailed, match=r"A worker died while it started \(.+\)\."),
            connected(ClusterConfig(workers=1, dashboard=False), paths=[]),
        ):
            pass
    finally:
        over.set()
        hunter.join()


def test_a_block_leaves_folder_environment_type_and_gradients_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig.from_json(trial(0)["train"])
    # What importing the classes does stays: it is done before.
    with put_back([config]):
        pass
    monkeypatch.setenv("KEPT", "1")
    before = os.getcwd(), dict(os.environ), torch.get_default_dtype(), torch.is_grad_enabled()
    with pytest.raises(KeyError), put_back([config]):
        os.chdir(tmp_path)
        del os.environ["KEPT"]
        os.environ.update({"NEW": "1", "HOME": "/nowhere"})
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        raise KeyError("label")
    assert before == (os.getcwd(), dict(os.environ), torch.get_default_dtype(), torch.is_grad_enabled())
