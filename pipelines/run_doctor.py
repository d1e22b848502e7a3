"""`regatta doctor`: whether all that a search needs is here, a line each, and what to do where it is not."""

from __future__ import annotations

import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage

from rich.console import Console
from rich.text import Text

from pipelines import checkup
from pipelines.checkup import PACKAGES, REINSTALL, Finding
from pipelines.machine import memory_available, owner_of, processor_quota, start_torch, torch_found
from search.cluster import DASHBOARD_PORT, examined
from search.cluster_config import ClusterConfig, is_open
from search.resources import cores_allowed, gpus
from tracking.client import tracking_uri
from tracking.health import existing, ledger, state_folder
from tracking.health_store import store
from tracking.ledger_file import FILE
from tracking.place import home

UI_PORT = 5000
COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def main(address: str | None) -> int:
    """Look at everything; returns 1 if something failed, else 0.

    Args:
        address: a running Dask scheduler, whose workers are looked at too.

    Raises:
        ValueError: if the address is not one that a search would take.
    """
    if wrong := list(ClusterConfig(address=address).mistakes()):
        raise ValueError("\n".join(wrong).replace("`address`", "`--address`"))
    console, count = Console(soft_wrap=True, highlight=False), Counter[str]()
    with start_torch() as torch:
        for finding in findings(torch, address):
            count[finding.status] += 1
            console.print(line(finding))
    console.print(f"{count['ok']} ok, {count['warn']} to look at, {count['fail']} failed")
    return 1 if count["fail"] else 0


def line(finding: Finding) -> Text:
    """As it is printed."""
    said = f"{finding.about:<9} {finding.what} {finding.remedy}".rstrip()
    return Text.assemble((f"{finding.status:<5}", COLOURS[finding.status]), said)


def findings(torch: subprocess.Popen[str], address: str | None) -> Iterator[Finding]:
    """Everything there is to say, in the order in which it is read; torch's own part as late as possible."""
    yield from _packages()
    yield from _machine()
    yield from _state()
    uri = tracking_uri(None, home())
    yield told("tracking", partial(store, uri))
    if uri.startswith("http://") and is_open(uri):
        what = "results go over the network unencrypted, and so does a password."
        yield Finding("warn", "tracking", what, "Use an https:// address.")
    yield _gpus(torch)
    if address is not None:
        yield from _workers(address)


def told(about: str, look: Callable[[], str]) -> Finding:
    """What a look at something brings: a few words, or the sentence of an error, which has its remedy."""
    try:
        return Finding("ok", about, look())
    except ValueError as error:
        return Finding("fail", about, " ".join(str(error).split()))


def _packages() -> Iterator[Finding]:
    ours, about = Path(checkup.__file__).parent.parent, metadata.metadata("regatta")
    installed = {one.name.lower().replace("_", "-"): one.version for one in metadata.distributions() if one.name}
    yield checkup.python(platform.python_version(), about["Requires-Python"])
    yield from checkup.packages(metadata.requires("regatta") or (), installed)
    yield from checkup.clashes(installed)
    specs = {name: find_spec(name) for name in PACKAGES}
    yield from checkup.misplaced({name: spec.origin if spec else None for name, spec in specs.items()}, ours)
    yield from checkup.shadows(Path.cwd(), ours)


def _machine() -> Iterator[Finding]:
    workers = len(gpus()) or cores_allowed()
    place = existing(home())
    yield checkup.processor(cores_allowed(), processor_quota(), workers)
    yield checkup.memory(memory_available(), workers)
    yield checkup.disk(disk_usage(place).free, place)
    yield checkup.port(DASHBOARD_PORT, "Dask's dashboard", owner_of(DASHBOARD_PORT))
    yield checkup.port(UI_PORT, "`regatta ui`", owner_of(UI_PORT))


def _state() -> Iterator[Finding]:
    yield told("state", partial(state_folder, home()))
    studies = sorted(path.parent for path in home().glob(f"*/{FILE}"))
    if not studies:
        yield Finding("ok", "studies", "none yet")
    for study in studies:
        yield told("studies", partial(ledger, study))


def _gpus(torch: subprocess.Popen[str]) -> Finding:
    try:
        return checkup.accelerators(torch_found(torch), len(gpus()))
    except ValueError as error:
        return Finding("fail", "gpus", str(error), REINSTALL)


def _workers(address: str) -> Iterator[Finding]:
    try:
        yield from checkup.workers(examined(address))
    except ValueError as error:
        yield Finding("fail", "workers", str(error))
