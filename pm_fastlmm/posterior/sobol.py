"""
Scrambled Sobol' points, as `scipy.stats.qmc.Sobol` makes them.

scipy.stats takes half a second to import, a sixth of the time to a first draw, and nothing else of it is used here.
"""

import numpy as np
import numpy.typing as npt

from pm_fastlmm.base.arrays import FloatArray

_BITS = 30
_PLACES = np.arange(_BITS, dtype=np.uint32)
# the primitive polynomial of each dimension and its first direction numbers (Joe & Kuo 2008, doi:10.1137/070709359)
_NUMBERS = [
    (1, 1), (3, 1), (7, 1, 3), (11, 1, 3, 1), (13, 1, 1, 1), (19, 1, 1, 3, 3), (25, 1, 3, 5, 13), (37, 1, 1, 5, 5, 17),
    (41, 1, 1, 5, 5, 5), (47, 1, 1, 7, 11, 19), (55, 1, 1, 5, 1, 1), (59, 1, 1, 1, 3, 11), (61, 1, 3, 5, 5, 31),
    (67, 1, 3, 3, 9, 7, 49), (91, 1, 1, 1, 15, 21, 21), (97, 1, 3, 1, 13, 27, 49), (103, 1, 1, 1, 15, 7, 5),
    (109, 1, 3, 1, 15, 13, 25), (115, 1, 1, 5, 5, 19, 61), (131, 1, 3, 7, 11, 23, 15, 103),
    (137, 1, 3, 7, 13, 13, 15, 69), (143, 1, 1, 3, 13, 7, 35, 63), (145, 1, 3, 5, 9, 1, 25, 53),
    (157, 1, 3, 1, 13, 9, 35, 107), (167, 1, 3, 1, 5, 27, 61, 31), (171, 1, 1, 5, 11, 19, 41, 61),
]  # fmt: skip


def sobol_points(d: int, log2: int, rng: np.random.Generator) -> FloatArray:
    """Return 2^log2 points (n, d) in the unit cube, d up to 26: a linear scrambling of the bits, and a shift."""
    (rng,) = rng.spawn(1)
    shift = rng.integers(2, size=(d, _BITS), dtype=np.uint32) @ (1 << _PLACES)
    scrambling = np.tril(rng.integers(2, size=(d, _BITS, _BITS), dtype=np.uint32))
    scrambling[:, _PLACES, _PLACES] = 1
    bits = np.stack([_directions(*numbers) for numbers in _NUMBERS[:d]])[..., None] >> _PLACES[::-1] & 1
    directions = np.einsum("dpk,djk->djp", scrambling, bits) % 2 @ (1 << _PLACES[::-1])
    steps = np.arange(1, 2**log2)
    changed = np.log2(steps & -steps).astype(int)  # the bit in which the Gray code of a number differs from the last
    points = np.bitwise_xor.accumulate(np.concatenate([shift[:, None], directions[:, changed]], axis=1), axis=1)
    return np.asarray(points.T * 2.0**-_BITS)


def _directions(polynomial: int, *first: int) -> npt.NDArray[np.uint32]:
    """Return the direction numbers of a dimension."""
    m = polynomial.bit_length() - 1
    numbers = list(first) if m else [1] * _BITS
    for j in range(len(numbers), _BITS):
        number = numbers[j - m]
        for k in range(m):
            number ^= (polynomial >> m - 1 - k & 1) * numbers[j - 1 - k] << k + 1
        numbers.append(number)
    return np.array([number << _BITS - 1 - j for j, number in enumerate(numbers)], dtype=np.uint32)
