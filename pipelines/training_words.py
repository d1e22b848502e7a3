"""What is said of a production training: each evaluation, and what it came to beside what was known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from models.config import TrainConfig
from models.job import BEST, LAST, METRICS, Outcome
from pipelines.bundle import Bundle


def line(point: Mapping[str, float], config: TrainConfig) -> str:
    """An evaluation, for a log without a progress bar."""
    names = [name for name in point if name.startswith(("val", "train_loss")) or name == config.objective]
    told = ", ".join(f"{name} {point[name]:.4g}" for name in names)
    return f"step {point['step']:,.0f}, epoch {point['epoch']:.3g}: {told}"


def sentences(bundle: Bundle, outcome: Outcome, folder: Path) -> Iterator[str]:
    """What a training came to, beside what the search and verification had."""
    objective = bundle.metrics.objective
    if outcome.reason:
        yield f"{outcome.reason[0].upper()}{outcome.reason[1:]}."
    if outcome.best:
        yield (
            f"Best {objective} {outcome.best[objective]:.4g} at step {outcome.best['step']:,.0f} of "
            f"{outcome.step:,}; {before(bundle)}."
        )
    if "communication/share" in outcome.numbers:
        numbers = outcome.numbers
        alone = bundle.figures.seconds / bundle.budget.steps
        yield (
            f"A step took {1000 * numbers['speed/step_seconds']:.3g} ms, of which gradients were on their way "
            f"{1000 * numbers['communication/step_seconds']:.3g} ms ({numbers['communication/share']:.0%}); in the "
            f"search, on one device, {1000 * alone:.3g} ms."
        )
    written = [name for name in (BEST, LAST, METRICS) if (folder / name).exists()]
    yield f"written to {folder}: {', '.join(written)}"


def before(bundle: Bundle) -> str:
    """What the configuration came to earlier: on fresh seeds if it was verified, else in the search's one run."""
    verification = bundle.verification or {}
    for finalist in verification.get("finalists", ()):
        if finalist["name"] == verification.get("chosen") and finalist.get("sd") is not None:
            mean, spread = finalist["mean"], finalist["sd"]
            return f"verified on fresh seeds, it had {mean:.4g} with a standard deviation of {spread:.2g}"
    return f"the search's one run of it, the best of many, had {bundle.figures.value:.4g}"
