"""
Check that a refactoring changes no number: record the results of an earlier checkout, and compare a later one's.

    PYTHONPATH=/path/to/earlier python tests/house/same_results.py record results.npz
    PYTHONPATH=/path/to/later python tests/house/same_results.py compare results.npz

The cases (`cases.py`) run every engine and every verb through the public interface, with fixed data and seeds. A number
may differ by 1e-12 of the largest one of its array; texts, such as labels and messages, must be equal. Where names of
the interface differ between the checkouts, the heads of `cases.py` and of `ALIASES` are the places to say so. Arguments
after the file are beginnings of the names of cases: only these are run, and recorded again.
"""

import argparse
import dataclasses
import os
import sys
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":
    for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[_variable] = "1"  # before NumPy is imported: sums in one order
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import xarray as xr

TOLERANCE = 1e-12
# part of a recorded key: the same part where the interface has been renamed since
ALIASES: dict[str, str] = {}
GROUPS = ("posterior", "posterior_predictive", "predictions", "log_likelihood", "observed_data")


def flatten(value, key, into):
    """Add all numbers and texts of a result to a dict, under keys that say where they stand."""
    if value is None or isinstance(value, str | bytes):
        into[key] = np.array(str(value))
    elif isinstance(value, pd.DataFrame):
        into[f"{key}/index"] = _texts(value.index)
        for name, column in value.items():
            flatten(column.to_numpy(), f"{key}/{name}", into)
    elif isinstance(value, pd.Series):
        into[f"{key}/index"] = _texts(value.index)
        flatten(value.to_numpy(), key, into)
    elif isinstance(value, xr.DataTree):
        for group in GROUPS:
            if group in value.children:
                flatten(value[group].to_dataset(), f"{key}/{group}", into)
    elif isinstance(value, xr.Dataset):
        for name, array in value.data_vars.items():
            flatten(array, f"{key}/{name}", into)
        for name, array in value.coords.items():
            flatten(array.to_numpy(), f"{key}/{name}", into)
    elif isinstance(value, xr.DataArray):
        into[f"{key}/dims"] = np.array(", ".join(map(str, value.dims)))
        flatten(value.to_numpy(), key, into)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            flatten(part, f"{key}/{name}", into)
    elif dataclasses.is_dataclass(value):
        flatten({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, key, into)
    elif isinstance(value, list | tuple) and not all(isinstance(part, int | float | str) for part in value):
        for i, part in enumerate(value):
            flatten(part, f"{key}/{i}", into)
    else:
        array = np.asarray(value)
        into[key] = array if array.dtype.kind in "fciub" else _texts(array.ravel())


def _texts(values):
    return np.array([str(value) for value in values], dtype=str)


def results_of_cases(wanted):
    """Run the cases whose names begin so, and yield (name, {key: array}, or None if it failed)."""
    from house import cases

    for name, case in cases.CASES.items():
        if wanted and not name.startswith(tuple(wanted)):
            continue
        start, into = time.perf_counter(), {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                flatten(case(), name, into)
        except Exception:  # the other cases are run all the same
            traceback.print_exc()
            print(f"{name}: FAILED", flush=True)
            into = None
        print(f"    {time.perf_counter() - start:.1f} s for {name}", file=sys.stderr, flush=True)
        yield name, into


def difference(old, new):
    """Return the largest difference relative to the largest number, or a text if the arrays cannot be compared."""
    if old.shape != new.shape:
        return f"shape {old.shape} is now {new.shape}"
    if old.dtype.kind == "U" or new.dtype.kind == "U":
        return 0.0 if np.array_equal(old, new) else f"{str(old)[:80]!r} is now {str(new)[:80]!r}"
    both = (np.isnan(old) & np.isnan(new)) | (old == new)
    if both.all():
        return 0.0
    finite = np.isfinite(old)
    if (finite != np.isfinite(new)).any() or not finite[~both].all():
        return "NaN or infinite at other places"
    return float(np.abs(old[~both] - new[~both]).max() / max(np.abs(old[finite]).max(), np.abs(new[finite]).max()))


def compare(name, old, new):
    """Print a line for a case, and one for each of its arrays that differs; return whether it is equal."""
    old = {_renamed(key): value for key, value in old.items()}
    found = {key: difference(old[key], new[key]) for key in old.keys() & new.keys()}
    found |= dict.fromkeys(old.keys() - new.keys(), "is gone")
    bad = {key: d for key, d in found.items() if isinstance(d, str) or d > TOLERANCE}
    largest = max((d for d in found.values() if not isinstance(d, str)), default=0.0)
    added = f", {len(more)} arrays are not recorded" if (more := new.keys() - old.keys()) else ""
    size = f"largest relative difference {largest:.1e}" if largest else "equal"
    print(f"{name}: {f'DIFFERS in {len(bad)} arrays, ' if bad else ''}{size}{added}", flush=True)
    for key, d in sorted(bad.items())[:20]:
        print(f"    {key}: {d if isinstance(d, str) else f'{d:.1e}'}")
    return not bad


def _renamed(key):
    for old, new in ALIASES.items():
        key = key.replace(old, new)
    return key


def main():
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("only", nargs="*", help="beginnings of names of cases")
    arguments = parser.parse_args()
    import pm_fastlmm

    print(f"results of {Path(pm_fastlmm.__file__).parent}", file=sys.stderr)
    recorded = defaultdict(dict)
    if arguments.what == "compare" or (arguments.only and arguments.file.exists()):
        with np.load(arguments.file) as stored:
            for key in stored.files:
                recorded[key.split("/")[0]][key] = stored[key]
    good = []
    for name, found in results_of_cases(arguments.only):
        if found is None:
            good.append(False)
        elif arguments.what == "record":
            recorded[name] = found
            good.append(True)
        else:
            good.append(compare(name, recorded[name], found))
    if arguments.what == "record":
        np.savez_compressed(arguments.file, **{key: a for part in recorded.values() for key, a in part.items()})
    print(f"{len(good)} cases, {good.count(False)} {'failed' if arguments.what == 'record' else 'differ or failed'}")
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
