"""What a training will take of the memory is foreseen from small batches, and found out where that is not enough."""

from __future__ import annotations

from typing import Any

import hungry
import pytest
from helpers import config_of
from hungry import MIB

from models.footprint import limit_of, resident
from models.room import fits, need


def values(model: str = "Keeping", **changes: Any) -> dict[str, Any]:
    """What is asked about a training, in a worker that has all of the machine to itself."""
    config = config_of(hungry, model=model, data="Sixty", **changes)
    return {"config": config.to_json(), "share_bytes": None, "per_gpu": 1}


def test_what_every_example_takes_is_foreseen_without_a_training_of_that_size() -> None:
    found = need(values(model_args={"mebibytes": 4}, batch_size=60))
    assert found["reason"] is None
    assert 4 * MIB <= found["example_bytes"] < 4.2 * MIB and 0 < found["fixed_bytes"] < MIB
    assert need(values(batch_size=60))["example_bytes"] < MIB / 5


def test_room_is_what_a_share_leaves_beside_what_is_loaded() -> None:
    whole, share = need(values()), need({**values(), "share_bytes": 3 << 30})
    assert whole["limit_bytes"] == limit_of(values()) and share["limit_bytes"] == 3 << 30
    assert share["room_bytes"] == int(0.95 * (3 << 30)) - share["loaded_bytes"]
    assert share["loaded_bytes"] == pytest.approx(resident("VmRSS"), rel=0.2)


@pytest.mark.parametrize(
    ("model", "reason"), [("Asking", "`self.trainer`"), ("Missing", "Missing")], ids=["asks its Trainer", "absent"]
)
def test_what_cannot_be_foreseen_says_why(model: str, reason: str) -> None:
    found = need(values(model))
    assert found.keys() == {"reason"} and reason in found["reason"]


@pytest.mark.slow
def test_whether_there_is_room_is_found_out_beside_as_much_as_is_loaded_already() -> None:
    # Beside 10 GB that are loaded, half a GB is left; a batch keeps 64 MB, or 960 MB.
    given = {"limit_bytes": 10_500_000_000, "loaded_bytes": 9_475_000_000}
    small, large = (fits({**values(model_args={"mebibytes": 16}, batch_size=size), **given}) for size in (4, 60))
    assert (small["oom"], small["reason"]) == (False, None)
    assert large["oom"] and large["reason"].startswith("oom_host")
