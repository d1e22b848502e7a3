"""The workers of a call: on this machine, or those of a scheduler, which is waited for when it is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape

from pipelines.session import Session
from search.cluster import connected, dashboard_address
from search.dask_executor import DaskExecutor
from search.executors import Executor
from search.reconnecting import lasting


@contextmanager
def workers(session: Session) -> Iterator[tuple[Executor, str]]:
    """An executor on workers that have passed the preflight, and where to look at them."""

    def tell(sentence: str) -> None:
        session.console.print(escape(sentence), highlight=False, soft_wrap=True)

    # Where the user stands is where their modules are found, as with `python script.py`.
    paths, config = [os.getcwd()], session.recipe.cluster
    interrupted = lambda: bool(session.interrupts)  # noqa: E731
    with (
        connected(config, paths=paths) as client,
        lasting(DaskExecutor(client), config, paths=paths, tell=tell, stopping=interrupted) as executor,
    ):
        yield executor, dashboard_address(client)
