"""Runs pytest in several processes at once: `python tests/side_by_side.py 2 -m slow`; `conftest.py` has their rules.

The first process talks to the terminal; what the others say follows when they have ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def main(jobs: int, arguments: Sequence[str]) -> int:
    """The exit code of the first process that has one other than 0; `arguments` are pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        claims = [f"--claims={folder}"] if jobs > 1 else []
        command = [sys.executable, "-m", "pytest", *claims, *arguments]
        said = [Path(folder) / f"said-{number}" for number in range(1, jobs)]
        processes = [subprocess.Popen(command), *(_quiet(command, path) for path in said)]
        try:
            codes = [process.wait() for process in processes]
        except KeyboardInterrupt:  # The terminal has told them too.
            codes = [process.wait() for process in processes]
        for path in said:
            print(path.read_text(encoding="utf-8"), end="", flush=True)
    return next((code for code in codes if code), 0)


def _quiet(command: Sequence[str], path: Path) -> subprocess.Popen[bytes]:
    with path.open("wb") as file:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
