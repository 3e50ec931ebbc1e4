"""
`make benchmark-against REV=…`: measures an earlier commit and the working tree by turns, for docs/benchmarks.md.

    python tests/benchmarks/against/run.py [REV] [--rows BEGINNING …] [--empty 3] [--warm 5]

The commit is checked out into a temporary folder. Both checkouts run in this environment, with PYTHONPATH set to one or
the other: what they depend on is the same, and nothing is installed. Every process has one thread and caches of its
own, a new `NUMBA_CACHE_DIR` and PyTensor `base_compiledir`; "warm" is after one run. Results are added to
docs/against.json and docs/benchmarks.md row by row; without REV it is measured against the commit named there.
"""

import argparse
import datetime
import importlib.metadata
import inspect
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))

import report
import work
from report import AGAINST, ROOT, cells
from rows import OF_PYMC, ROWS, Figure, Row, chosen

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
PACKAGES = ("pymc", "pytensor", "numpy", "scipy", "numba", "nutpie")
WIDTHS = ("<86", ">9", ">9", ">8", "<12", "<3")

type Turn = dict[str, float]  # {name of a figure: seconds}


class Side(NamedTuple):
    """A checkout, and the folder of its warm caches."""

    checkout: Path
    caches: Path


class Failed(Exception):
    """A piece of work ended with an error, whose text this is."""


class Process:
    """A process that does a piece of work on a side."""

    def __init__(self, side: Side, caches: Path, work: str, names: list[str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by __exit__
        environment = os.environ | dict.fromkeys(THREADS, "1") | {
            "PYTHONPATH": str(side.checkout), "NUMBA_CACHE_DIR": str(caches / "numba"),
            "PYTENSOR_FLAGS": f"base_compiledir={caches / 'pytensor'}", "MPLBACKEND": "Agg",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("work.py"), work, *names], env=environment, cwd=caches, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()

    def turn(self) -> Turn:
        """Return the seconds of a turn."""
        with suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        raise Failed(self.errors.read().strip() or "it printed nothing")


def turns(side: Side, name: str, caches: str, names: list[str]) -> Iterator[Turn]:
    """Take turns of a piece of work without end: in one process, or each in a new one."""
    if not inspect.isgeneratorfunction(getattr(work, name)):
        with Process(side, side.caches, name, names) as process:
            while True:
                yield process.turn()
    if caches == "warm":
        with Process(side, side.caches, name, names) as process:
            process.turn()  # fills them
    while True:
        with ExitStack() as stack:
            place = side.caches
            if caches == "empty":
                place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield stack.enter_context(Process(side, place, name, names)).turn()


def measured(name: str, caches: str, names: list[str], sides: dict[str, Side], repeats: int) -> dict[str, list[Turn]]:
    """Return the turns of each side, one side after the other in every turn."""
    if name in OF_PYMC:
        sides = {"now": sides["now"]}
    found: dict[str, list[Turn]] = {which: [] for which in sides}
    with ExitStack() as stack:
        running = {
            which: stack.enter_context(closing(turns(side, name, caches, names))) for which, side in sides.items()
        }
        for i in range(repeats):
            for which in list(sides)[:: -1 if i % 2 else 1]:
                found[which].append(next(running[which]))
    return {"before": found["now"]} | found


def rows_of(
    wanted: dict[str, Row], sides: dict[str, Side], repeats: dict[str, int]
) -> Iterator[tuple[str, dict | Failed]]:
    """Measure each piece of work when the first row needs it, and yield the rows one by one."""
    seconds: dict[str, dict[Figure, list[float]]] = {which: {} for which in sides}
    failed: dict[tuple[str, str], Failed] = {}
    needed = {figure for row in wanted.values() for figure in row.needs}
    for name, row in wanted.items():
        for figure in row.needs:
            key = figure.work, figure.caches
            if figure in seconds["now"] or key in failed:
                continue
            together = [other for other in needed if (other.work, other.caches) == key]
            try:
                found = measured(*key, [other.name for other in together], sides, repeats[figure.caches])
            except Failed as error:
                failed[key] = error
                continue
            for which in sides:
                seconds[which] |= {other: [turn[other.name] for turn in found[which]] for other in together}
        error = next((failed[f.work, f.caches] for f in row.needs if (f.work, f.caches) in failed), None)
        yield name, error or row.record(row.values(seconds["before"]), row.values(seconds["now"]))


@contextmanager
def checked_out(rev: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkout"
        git("worktree", "add", "--quiet", "--detach", str(place), rev)
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", str(place))


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return done.stdout.strip()


def about(rev: str) -> dict:
    return {
        "rev": rev, "python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }  # fmt: skip


def merged(kept: dict, head: dict, fresh: dict[str, dict]) -> dict:
    """Return a file with rows that were measured, in the order of the table; of another commit none are kept."""
    rows = (kept["rows"] if kept.get("rev") == head["rev"] else {}) | fresh
    return head | {"rows": {name: rows[name] for name in ROWS if name in rows}}


def said(texts: list[str]) -> None:
    print("  ".join(f"{text:{width}}" for text, width in zip(texts, WIDTHS, strict=True)), flush=True)


def main() -> int:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rev", nargs="?")
    parser.add_argument("--rows", nargs="*", default=[], metavar="BEGINNING")
    parser.add_argument("--empty", type=int, default=3, help="turns with empty caches")
    parser.add_argument("--warm", type=int, default=5, help="turns with warm caches")
    options = parser.parse_args()
    wanted = chosen(options.rows)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("broken off"))  # removes what is checked out
    kept = json.loads(AGAINST.read_text()) if AGAINST.exists() else {}
    if not (rev := options.rev or kept.get("rev")):
        raise SystemExit("which commit? REV=…")
    rev = git("rev-parse", "--short=7", "--verify", f"{rev}^{{commit}}")
    run = {
        "commit": git("rev-parse", "--short=7", "HEAD") + "-dirty" * bool(git("status", "--short", "pm_fastlmm")),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    }
    repeats = {"empty": options.empty, "warm": options.warm}
    status = 0
    with checked_out(rev) as earlier, tempfile.TemporaryDirectory() as folder:
        sides = {"before": Side(earlier, Path(folder) / "before"), "now": Side(ROOT, Path(folder) / "now")}
        for side in sides.values():
            side.caches.mkdir()
            package = str(side.checkout / "pm_fastlmm")
            subprocess.run([sys.executable, "-m", "compileall", "-q", package], check=True)  # the .pyc files
        said(["", rev, "now", "ratio", "to reach", ""])
        for name, found in rows_of(wanted, sides, repeats):
            if isinstance(found, Failed):
                print(f"{ROWS[name].title}: failed\n{found}", flush=True)
                status = 1
                continue
            said(cells(found))
            kept = merged(kept, about(rev), {name: found | run})
            AGAINST.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
            report.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
