"""The best validation loss against wall seconds: `strategy: tune` beside what people use, from the same start."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
from choices import times
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from peers import machine, spread
from tuning_runs import CONTENDERS, WORKLOADS, Run, race

COLORS = {"regatta": "#0b6e4f", "ray": "#c8553d", "optuna": "#3d5a98", "qmc": "#8a8a8a"}


def table(runs: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """A line for each contender: medians and ranges over the seeds."""
    yield "| contender | seconds | best loss at half | at the end | trials/min |"
    yield "|---|---|---|---|---|"
    for key, found in runs.items():
        line = [
            CONTENDERS[key].name,
            f"{found[0].seconds:.0f}",
            spread([run.at(run.seconds / 2) for run in found], ".4f"),
            spread([run.at(run.seconds) for run in found], ".4f"),
            spread([run.trials * 60 / run.seconds for run in found], ".0f"),
        ]
        yield f"| {' | '.join(line)} |"


def times_as_long(runs: Mapping[str, Sequence[Run]], targets: Sequence[float]) -> Iterator[str]:
    """A line for each contender: seconds to each target, the median also as a multiple of the first one's.

    Searches of one seed have nothing else in common, so that no pairs are made of them. Where more than half of them
    ended without the target, their time makes a lower bound.
    """
    yield f"| contender | {' | '.join(f'seconds to {target}' for target in targets)} |"
    yield "|---|" + "---|" * len(targets)
    first = next(iter(runs))
    for key, found in runs.items():
        line = [CONTENDERS[key].name]
        for target in targets:
            reached = [run.until(target) for run in found]
            text = f"{spread(reached, '.1f')}, {sum(map(math.isfinite, reached))} of {len(reached)}"
            own, middle = statistics.median([run.until(target) for run in runs[first]]), statistics.median(reached)
            if key != first and math.isfinite(own):
                bound = "" if math.isfinite(middle) else "at least "
                text += f": {bound}{min(middle, found[0].seconds) / own:.1f}x"
            line.append(text)
        yield f"| {' | '.join(line)} |"


def chosen(runs: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """A line for each choice: what its trainings come to on fresh seeds, the mean of each run's."""
    yield "| its choice, trained again | seconds | loss on fresh seeds |"
    yield "|---|---|---|"
    for found in runs.values():
        for name in found[0].choices:
            several = [run.choices[name] for run in found]
            means = [statistics.fmean(choice.fresh) for choice in several]
            yield f"| {name} | {spread([choice.seconds for choice in several], '.0f')} | {spread(means, '.4f')} |"


def chosen_over_time(runs: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """A line for each contender: what it would have chosen at some time, as the mean loss on fresh seeds."""
    asked = sorted({when for found in runs.values() for when in times(found[0].seconds)})
    yield f"| its choice after | {' | '.join(f'{when:.0f} s' for when in asked)} |"
    yield "|---|" + "---|" * len(asked)
    for key, found in runs.items():
        values = {when: [run.chosen_at(when) for run in found] for when in asked}
        cells = ["none" if math.inf in values[when] else spread(values[when], ".3f") for when in asked]
        yield f"| {CONTENDERS[key].name} | {' | '.join(cells)} |"


def as_good(runs: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """From when on the first one's choice stays as good as another's at the end, by the medians over the seeds."""
    first, *others = runs
    mine = middles(runs[first])
    for key in others:
        seconds = runs[key][0].seconds
        end = middles(runs[key])[seconds]
        late = max((when for when, value in mine.items() if value > end), default=0.0)
        since = next((when for when in mine if when > late), None)
        if since is not None and all(since in run.course for run in runs[first]):
            took = max(run.course[since].seconds for run in runs[first])
            theirs = f"{CONTENDERS[key].name} after {seconds:.0f} s ({end:.3f})"
            ratio = f"{seconds / took:.1f}x as soon"
            yield f"{CONTENDERS[first].name} has as good a choice as {theirs} from {took:.1f} s on: {ratio}."


def middles(found: Sequence[Run]) -> dict[float, float]:
    """The median loss of the choices at each time that was asked."""
    return {when: statistics.median([run.chosen_at(when) for run in found]) for when in times(found[0].seconds)}


def draw(found: Mapping[str, Mapping[str, Sequence[Run]]], path: Path) -> None:
    """Two panels for each workload, with medians over the seeds and their range: the best loss, and the choice."""
    figure, panels = plt.subplots(1, 2 * len(found), figsize=(12 * len(found), 4), squeeze=False)
    for index, (name, runs) in enumerate(found.items()):
        best, chosen = panels[0][2 * index : 2 * index + 2]
        for key, several in runs.items():
            every = [several[0].seconds * step / 400 for step in range(1, 401)]
            lines(best, key, {when: [run.at(when) for run in several] for when in every}, step="post")
            lines(chosen, key, {when: [run.chosen_at(when) for run in several] for when in times(several[0].seconds)})
        for target in WORKLOADS[name]["targets"]:
            best.axhline(target, color="#444444", linewidth=0.6, linestyle=":")
        best.set(title=f"{name}: the best training so far", ylabel="best validation loss")
        chosen.set(title=f"{name}: what it would choose", ylabel="mean validation loss on fresh seeds")
        best.set(yscale="log")
        best.set_ylim(top=0.5)
        for panel in (best, chosen):
            dress(panel)
        best.legend(frameon=False, fontsize=9, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def lines(
    panel: Axes, key: str, values: Mapping[float, Sequence[float]], *, step: Literal["post"] | None = None
) -> None:
    """The median of each time that all seeds have a value at, and their range; without `step`, a mark at each."""
    seen = {when: each for when, each in values.items() if max(each) < math.inf}
    middle = [statistics.median(each) for each in seen.values()]
    low, high = [min(each) for each in seen.values()], [max(each) for each in seen.values()]
    look: dict[str, Any] = {
        "color": COLORS[key],
        "label": CONTENDERS[key].name,
        "drawstyle": "steps-post" if step else "default",
    }
    panel.plot(list(seen), middle, marker="" if step else "o", **look)
    panel.fill_between(list(seen), low, high, step=step, color=COLORS[key], alpha=0.15, linewidth=0)


def dress(panel: Axes) -> None:
    """Seconds as factors, and plain numbers."""
    panel.set(xscale="log", xlabel="wall seconds from the command")
    logarithmic = [(panel.xaxis, (1, 3)), *([(panel.yaxis, (1, 2, 5))] if panel.get_yscale() == "log" else [])]
    for axis, digits in logarithmic:
        axis.set_major_locator(LogLocator(subs=digits))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    panel.spines[["top", "right"]].set_visible(False)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, help="wall-clock time of each search (default: 180 digits, 60 conv)")
    parser.add_argument("--fresh", type=int, default=8, help="seeds to train each choice again on (default: 8)")
    parser.add_argument("--trials", type=int, default=2000, help="more than time allows (default: 2000)")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each contender (default: 3)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that train (default: the cores)")
    parser.add_argument("--picture", type=Path, help="where to draw the curves (PNG)")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; nothing else should run meanwhile."""
    options = arguments(given)
    print(f"{machine()}\n{options.workers} workers, {options.seeds} seeds")
    found: dict[str, dict[str, list[Run]]] = {}
    for name in options.workloads:
        found[name] = {key: [] for key in options.contenders}
        for seed in range(options.seeds):
            for key in options.contenders:
                run = race(key, WORKLOADS[name], options, seed)
                found[name][key].append(run)
                print(f"{name}, seed {seed}: {key} {run}", file=sys.stderr, flush=True)
        print("\n".join(["", f"{name}:", "", *table(found[name])]))
        print("\n".join(["", *times_as_long(found[name], WORKLOADS[name]["targets"])]))
        print("\n".join(["", *chosen(found[name])]))
        print("\n".join(["", *chosen_over_time(found[name]), "", *as_good(found[name])]), flush=True)
    if options.picture is not None:
        draw(found, options.picture)


if __name__ == "__main__":
    main()
