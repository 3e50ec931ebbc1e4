"""The table: what is measured of which piece of work, what it is set against, and what was to be reached."""

from typing import NamedTuple

import numpy as np

SCALE = {"s": 1.0, "ms": 1e3, "×": 1.0}
OF_PYMC = ("import_pymc", "toy_draw")  # pieces of work without pm_fastlmm: measured once for both checkouts


class Figure(NamedTuple):
    """A figure of a piece of work (`work.py`) with caches of one kind."""

    work: str
    name: str
    caches: str = "warm"  # or "empty"


class Row(NamedTuple):
    """
    A row of the table: a figure, less another or divided by another of the same turn.

    The goal is a `share` of the earlier checkout's value, or a `limit` of this one's; none where only the cost is told.
    """

    title: str
    figure: Figure
    unit: str = "s"
    less: Figure | None = None
    over: Figure | None = None
    share: float | None = None
    limit: float | None = None

    @property
    def needs(self) -> list[Figure]:
        """The figures that it is made of."""
        return [figure for figure in (self.figure, self.less, self.over) if figure is not None]

    @property
    def goal(self) -> str:
        """What was to be reached."""
        if self.share is not None:
            return f"≤ 1/{1 / self.share:g} of it"
        return "" if self.limit is None else f"≤ {self.limit:g} {self.unit}"

    def values(self, turns: dict[Figure, list[float]]) -> np.ndarray:
        """Return the value in each turn, from the seconds of all figures of a checkout."""
        values = SCALE[self.unit] * np.array(turns[self.figure])
        if self.less is not None:
            values = values - SCALE[self.unit] * np.array(turns[self.less])
        return values if self.over is None else values / np.array(turns[self.over])

    def record(self, before: np.ndarray, now: np.ndarray) -> dict:
        """Return what is kept of the values of both checkouts: `reached` is None without a goal."""
        ratio, value = float(np.median(now) / np.median(before)), float(np.median(now))
        reached = None
        if self.goal:
            reached = ratio <= self.share if self.share is not None else value <= self.limit
        return {
            "title": self.title, "unit": self.unit, "before": spread(before), "now": spread(now),
            "ratio": digits(ratio), "goal": self.goal, "reached": reached,
        }  # fmt: skip


def digits(value: float) -> float:
    """Return a value as it is written in the file: four digits."""
    return float(f"{value:.4g}")


def spread(values: np.ndarray) -> dict[str, float]:
    return {"median": digits(np.median(values)), "low": digits(values.min()), "high": digits(values.max())}


def chosen(beginnings: list[str]) -> dict[str, Row]:
    """
    Return the rows whose names begin so; all, if nothing is asked for.

    Raises
    ------
    SystemExit
        If no row begins so.
    """
    if unknown := [b for b in beginnings if not any(name.startswith(b) for name in ROWS)]:
        raise SystemExit(f"no row begins with {', '.join(unknown)}: choose from {', '.join(ROWS)}")
    return {name: row for name, row in ROWS.items() if name.startswith(tuple(beginnings or ("",)))}


TITLES = {"john_alpha": "john_alpha", "penicillin": "Penicillin", "sleepstudy": "sleepstudy, random slopes"}
_DRAW = "import → first draw of `kernel_model`"
_EIGH = Figure("beside_eigh", "1000, eigh"), Figure("beside_eigh", "2000, eigh")

ROWS = {
    "import": Row(
        "`import pm_fastlmm` / `import pymc`", Figure("import_ours", "import"), "×",
        over=Figure("import_pymc", "import"), limit=1.15,
    ),
    "import_all": Row(
        "`from pm_fastlmm import *` / `import pymc`", Figure("import_all", "import"), "×",
        over=Figure("import_pymc", "import"),
    ),
    "first_reml": Row(
        "import → first `reml`, n = 1344, caches empty", Figure("kernel_fits", "reml", "empty"), share=1 / 4
    ),
    "first_intervals": Row("… then intervals of the exact posterior", Figure("kernel_fits", "intervals", "empty")),
    "first_scan": Row("… then a scan", Figure("kernel_fits", "scan", "empty")),
    "first_reml_point": Row("… then `reml_point`", Figure("kernel_fits", "reml_point", "empty")),
    "first_draw_empty": Row(
        f'{_DRAW}, sampler "pymc", less a toy model\'s, caches empty', Figure("draw_pymc", "draw", "empty"),
        less=Figure("toy_draw", "draw", "empty"), share=1 / 3,
    ),
    "first_draw_warm": Row(
        "… caches warm", Figure("draw_pymc", "draw"), less=Figure("toy_draw", "draw"), share=1 / 3
    ),
    "first_draw_nutpie_empty": Row(
        f'{_DRAW}, sampler "nutpie", caches empty', Figure("draw_nutpie", "draw", "empty")
    ),
    "first_draw_nutpie_warm": Row("… caches warm", Figure("draw_nutpie", "draw")),
    "toy_draw_empty": Row(
        "import → first draw of that toy model of PyMC, caches empty", Figure("toy_draw", "draw", "empty")
    ),
    "toy_draw_warm": Row("… caches warm", Figure("toy_draw", "draw")),
    "first_find_reml": Row(
        "import → first `find_reml`, sleepstudy, caches empty", Figure("formula_fits", "sleepstudy", "empty"),
        share=1 / 8,
    ),
    "first_find_reml_then": Row("… then Penicillin", Figure("formula_fits", "penicillin", "empty"), share=1 / 10),
    **{
        f"formula_{name}": Row(f"formula and table → `find_reml`, {title}", Figure("formula", name), "ms", share=1 / 10)
        for name, title in TITLES.items()
    },
    "refit": Row("`fit.refit(y)`, sleepstudy", Figure("refit", "refit"), "ms", limit=5.0),
    **{
        f"model_{name}": Row(
            f"`lmm_model`, {title}, less PyMC's own construction of its variables", Figure("model", name), "ms",
            less=Figure("model", f"{name}, PyMC"), limit=10.0,
        )
        for name, title in TITLES.items()
    },
    "by_hand_first": Row(
        "`find_reml` of a model written by hand, john_alpha", Figure("by_hand", "first"), "ms", share=1 / 3
    ),
    "by_hand_again": Row("… again, with other data", Figure("by_hand", "again"), "ms", share=1 / 10),
    "crossed": Row(
        "… two crossed factors, n = 20 000, 600 levels (gpboost beside it: [peers](peers.md))",
        Figure("two_factors", "find_reml"), "ms",
    ),
    "insteval": Row(
        "… of InstEval's size, 73 421 rows, 2972 × 1128 levels", Figure("insteval", "find_reml"), limit=1.0
    ),
    "second_sample_nutpie": Row(
        'second `sample` of a model of the same structure, 4 × 1000 draws, "nutpie"', Figure("draws", "nutpie"),
        limit=0.4,
    ),
    "second_sample_pymc": Row(
        '… "pymc", less a toy model\'s', Figure("draws", "pymc"), less=Figure("draws", "toy"), limit=0.1
    ),
    "second_sample_toy": Row("second `pm.sample` of a toy model of PyMC, 4 × 1000 draws", Figure("draws", "toy")),
    "simulated": Row(
        "REML and 4 × 250 draws of each of many simulated data sets, one model", Figure("simulated", "data set"),
        share=1 / 5,
    ),
    "eigh_2000": Row("`reml_point` / `eigh`, n = 2000", Figure("beside_eigh", "2000"), "×", over=_EIGH[1], limit=0.25),
    "eigh_1000": Row("`reml_point` / `eigh`, n = 1000", Figure("beside_eigh", "1000"), "×", over=_EIGH[0], limit=0.32),
    "many": Row(
        "rotation and `reml` of 10 000 responses / product alone, n = 1000", Figure("many", "rotated and fitted"), "×",
        over=Figure("many", "product"), limit=1.5,
    ),
    "many_fitted": Row(
        "… `reml` of what was rotated / product alone", Figure("many", "fitted"), "×", over=Figure("many", "product"),
        limit=0.3,
    ),
}  # fmt: skip
