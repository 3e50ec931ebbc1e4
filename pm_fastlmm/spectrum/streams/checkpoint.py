"""Checkpoints of a long pass: arrays and a description in one file that is replaced as a whole."""

import json
import os
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_FORMAT = 2  # of what is written; another number is another meaning
_SAMPLED = 64  # rows of a block that its fingerprint looks at


def save(path: Path, arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Write arrays and a description (JSON); the file that was there stays whole until the new one is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps({"format": _FORMAT, **about})), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """
    Return the arrays and the description of a file that `save` wrote.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or that of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(
            f"{path} is no checkpoint ({error}): name another file, or remove it to begin anew."
        ) from error
    if about.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} was written by another version: remove it to begin anew.")
    return arrays, about


def require_same(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise a ValueError that names what differs between a checkpoint's description and that of the data at hand."""
    differing = [
        f"{key} was {found.get(key)!r} and is {value!r}" for key, value in expected.items() if found.get(key) != value
    ]
    if differing:
        raise ValueError(
            f"the checkpoint {path} is of other data: {'; '.join(differing)}. "
            "Name another file, or remove it to begin anew."
        )


def fingerprint(*parts: npt.ArrayLike | None) -> str:
    """Return a hash of the shapes of arrays and of some of their rows, the same for the same numbers of any type."""
    digest = blake2b(digest_size=16)
    for part in parts:
        if part is None:
            digest.update(b"none")
            continue
        array = np.asarray(part)
        rows = np.unique(np.linspace(0, max(len(array) - 1, 0), _SAMPLED).astype(int))[: len(array)]
        digest.update(repr((array.shape, [*map(str, getattr(part, "columns", []))])).encode())
        digest.update(np.ascontiguousarray(array[rows], dtype=np.float64).tobytes())
    return digest.hexdigest()
