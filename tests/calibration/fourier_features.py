"""How many features a basis in two dimensions needs: it prints the table of docs/fourier.md."""

import numpy as np

import pm_fastlmm as flmm


def main():
    """Make the bases of 1500 points of a square, and print their sizes."""
    points = np.random.default_rng(2).uniform(0, 10, (1500, 2))
    for smallest in (1.0, 2.0, 3.0):
        cells = []
        for kernel in ("se", "matern52", "matern32"):
            sizes = [
                flmm.FourierBasis(
                    points, kernel, lengthscale=(smallest, 5.0), noise_ratio_min=ratio, max_features=10**7
                ).size
                for ratio in (0.1, 0.01)
            ]
            cells.append(f"{sizes[0]} ({sizes[1]})")
        print(f"| {smallest:g} |", *(f"{cell} |" for cell in cells))


if __name__ == "__main__":
    main()
