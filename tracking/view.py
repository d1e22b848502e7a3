"""How a search first looks in the MLflow UI: which columns, in which order, sorted by what."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tracking.runs import legal_name

VIEW_KEY = "regatta"
"""Name of the view in the address of MLflow's page of runs: `?viewStateShareKey=regatta`."""


def experiment_tags(
    *, minimize: bool, params: Sequence[str], others: Sequence[str] = (), expected: bool = False
) -> dict[str, str]:
    """Tags of an experiment that give it this view. MLflow's UI writes the same tag when a person shares a view.

    Args:
        params: what differs between the runs.
        others: more metrics of the best evaluation to show beside it.
        expected: whether the best is the one of which most is expected (`tracking.leaders`), not the best value.
    """
    first = ["expected", "value"] if expected else ["value"]
    results = [*first, *(f"best_{name}" for name in others), "epochs_to_target", "seconds_to_target"]
    columns = [f"metrics.`{legal_name(f'result/{name}')}`" for name in results]
    columns += [f"params.`{legal_name(name)}`" for name in params]
    view = {
        # The search's own run has no phase: the trials stand alone, best first.
        "searchFilter": "tags.phase != ''",
        "orderByKey": "metrics.`result/expected_bound`" if expected else "metrics.`result/value`",
        "orderByAsc": minimize,
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_10_RUNS",
    }
    return {f"mlflow.sharedViewState.{VIEW_KEY}": json.dumps(view)}
