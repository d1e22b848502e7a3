"""The checks of `regatta doctor` that look at facts alone: packages, devices, memory, disk, ports, folders, clocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

GIB = 1 << 30
WORKER = 0.5 * GIB
"""Memory of a worker process with torch and Lightning, before any data."""
DRIVER = 0.5 * GIB
ENOUGH_DISK, LEAST_DISK = 5 * GIB, 0.5 * GIB
CLOCK_SECONDS = 1.0
"""Clocks that differ more put the points of a curve, and trials, out of order."""
PACKAGES = ("pipelines", "models", "search", "tracking")
TWINS = (("mlflow", "mlflow-skinny"), ("mlflow", "mlflow-tracing"), ("dask", "distributed"))
"""Packages that come in parts, which must be of one version."""
REINSTALL = "Run `make install`, or pip with constraints.txt."


class Finding(NamedTuple):
    """A line of the doctor's."""

    status: Literal["ok", "warn", "fail"]
    about: str
    what: str
    remedy: str = ""


def python(version: str, asked: str) -> Finding:
    """Whether this Python will do."""
    if SpecifierSet(asked).contains(version, prereleases=True):
        return Finding("ok", "python", version)
    return Finding(
        "fail", "python", f"must be {asked}, but is {version}.", "Install another, and `make PYTHON=... install`."
    )


def packages(asked: Iterable[str], installed: Mapping[str, str]) -> Iterator[Finding]:
    """Whether every package that is asked for is there, in a version that is.

    Args:
        asked: requirements as `metadata.requires` gives them; those of extras are passed over.
        installed: version of every distribution, by its name in small letters and hyphens.
    """
    wanted = [one for one in map(Requirement, asked) if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = 0
    for one in wanted:
        version = installed.get(one.name.lower().replace("_", "-"))
        if version is None or not one.specifier.contains(version, prereleases=True):
            wrong += 1
            what = f"{one.name} must be {one.specifier}, but is {version or 'not installed'}."
            yield Finding("fail", "packages", what, REINSTALL)
    if not wrong:
        yield Finding("ok", "packages", f"{len(wanted)} asked for, all there in versions that fit")


def clashes(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Packages that are known not to go together."""
    for one, other in TWINS:
        versions = installed.get(one), installed.get(other)
        if None not in versions and versions[0] != versions[1]:
            what = f"{one} {versions[0]} and {other} {versions[1]} must be of one version."
            yield Finding("fail", "packages", what, REINSTALL)
    trees = installed.get("pytorch-lightning"), installed.get("lightning")
    if None not in trees and trees[0] != trees[1]:
        what = f"pytorch-lightning {trees[0]} and lightning {trees[1]} should be of one version."
        yield Finding("warn", "packages", what, "A module of the one trains by the rules of its own.")
    if "dask-cuda" in installed:
        what = f"dask-cuda {installed['dask-cuda']} asks for an older Dask."
        yield Finding("warn", "packages", what, "Uninstall it: workers get a GPU each without it.")


def shadows(here: Path, ours: Path) -> Iterator[Finding]:
    """Folders and files here that are called as our packages are.

    Args:
        ours: the folder that our packages lie in.
    """
    taken = [name for name in PACKAGES if (here / name).is_dir() or (here / f"{name}.py").is_file()]
    if taken and here.resolve() != ours.resolve():
        names = ", ".join(f"`{name}`" for name in taken)
        what = f"{names} in {here} cannot be imported: Regatta has packages of that name."
        yield Finding("warn", "folder", what, "Rename yours, so that recipes can name its classes.")
    else:
        yield Finding("ok", "folder", f"nothing in {here} has the name of one of our packages")


def misplaced(origins: Mapping[str, str | None], ours: Path) -> Iterator[Finding]:
    """Packages of ours that Python would find elsewhere: something on its path hides them.

    Args:
        origins: file that each of `PACKAGES` is imported from.
    """
    for name, origin in origins.items():
        if origin is None or Path(origin).resolve().parent.parent != ours.resolve():
            what = f"`{name}` must be Regatta's own in {ours}, but Python finds {origin}."
            yield Finding("fail", "folder", what, "Take that folder from PYTHONPATH.")


def processor(cores: int, quota: float | None, workers: int) -> Finding:
    """Whether the cores that are counted may all be used.

    Args:
        quota: cores that a container's limit comes to; None: no limit.
        workers: processes that a search starts by itself.
    """
    if quota is not None and quota < cores and quota < workers:
        what = f"{cores} cores, but a limit of {quota:.3g} for all processes."
        return Finding("warn", "cores", what, f"Give `--cluster.workers {max(1, int(quota))}`.")
    return Finding("ok", "cores", f"{cores}; a search starts {_workers(workers)}")


def accelerators(found: Mapping[str, Any], listed: int) -> Finding:
    """Whether torch can use the GPUs that there are.

    Args:
        found: `models.devices.devices()`.
        listed: GPUs that the driver shows.
    """
    build = f"torch {found['torch']}"
    if found["gpus"]:
        gpus = ", ".join(f"{gpu['name']} ({gpu['memory'] / GIB:.0f} GiB)" for gpu in found["gpus"])
        return Finding("ok", "gpus", f"{gpus}; {build}")
    if listed and found["cuda"] is None:
        return Finding("fail", "gpus", f"{listed}, but {build} is built for none.", "Install torch for CUDA.")
    if listed:
        what = f"{listed}, but {build} cannot use them."
        return Finding("fail", "gpus", what, f"Update the driver to one for CUDA {found['cuda']}, or see `nvidia-smi`.")
    if found["cuda"] is not None:
        what = f"none is visible, though {build} is built for CUDA {found['cuda']}."
        return Finding("warn", "gpus", what, "On a machine without GPUs, all is well; else see CUDA_VISIBLE_DEVICES.")
    return Finding("ok", "gpus", f"none; {build} trains on the processor")


def memory(available: float, workers: int) -> Finding:
    """Whether so many workers fit into the bytes that are free."""
    needed, what = DRIVER + workers * WORKER, f"{available / GIB:.1f} GiB free"
    if available < DRIVER + WORKER:
        least = (DRIVER + WORKER) / GIB
        return Finding("fail", "memory", f"{what}, but a search needs {least:.1f} GiB.", "Close other programs.")
    if available < needed:
        what += f", but {_workers(workers)} need {needed / GIB:.1f} GiB before any data."
        fit = int((available - DRIVER) / WORKER)
        return Finding("warn", "memory", what, f"Close other programs, or give `--cluster.workers {fit}`.")
    return Finding("ok", "memory", f"{what}; {_workers(workers)} need {needed / GIB:.1f} GiB before any data")


def disk(free: float, place: Path) -> Finding:
    """Whether there is room for checkpoints and results."""
    what = f"{free / GIB:.1f} GiB free in {place}"
    if free >= ENOUGH_DISK:
        return Finding("ok", "disk", what)
    return Finding(
        "warn" if free >= LEAST_DISK else "fail",
        "disk",
        f"{what}, and checkpoints may need more.",
        "Make room, or set REGATTA_HOME to another disk.",
    )


def port(number: int, use: str, owner: str | None) -> Finding:
    """Whether a port is free.

    Args:
        owner: who has it; None: nobody.
    """
    if owner is None:
        return Finding("ok", "ports", f"{number} is free for {use}")
    return Finding("warn", "ports", f"{number} is taken by {owner}.", f"For {use} another is taken, and printed.")


def workers(examined: Mapping[str, tuple[Sequence[str], float]]) -> Iterator[Finding]:
    """Packages and clocks of a cluster's workers, as `search.cluster.examined` gives them."""
    if not examined:
        yield Finding("fail", "workers", "the scheduler has none.", "Start some with `dask worker ADDRESS`.")
    sound = 0
    for name, (differences, ahead) in examined.items():
        yield from (Finding("fail", "workers", sentence) for sentence in differences)
        if abs(ahead) > CLOCK_SECONDS:
            what = f"the clock of {name} is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}."
            yield Finding("warn", "workers", what, "Let both machines follow a time server.")
        sound += not differences and abs(ahead) <= CLOCK_SECONDS
    if sound:
        yield Finding("ok", "workers", f"{sound} with our packages, clocks within {CLOCK_SECONDS:.0f} s")


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"
