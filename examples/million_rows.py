# %% [markdown]
# # A million rows that are never in memory
#
# A cohort of a million people, 100 markers each, and a trait that they explain in part:
#
# $$y = X\beta + Wa + e,\qquad a \sim N(0, \sigma^2 I),\qquad e \sim N(0, \delta\sigma^2 I),$$
#
# which is $y \sim N(X\beta, \sigma^2(WW^\top + \delta I))$. The table would take 0.8 GB as floats. It arrives in blocks
# of 20 000 rows, and of each block only sums stay: `flmm.KernelStatistics`. They are all that REML, the exact
# posterior, NUTS, the effects of the markers and predictions need.

# %%
import resource
import sys
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import pm_fastlmm as flmm

MARKERS = 100
# of the blocks, small ones first: a million rows in all
SIZES = [300, 700, 2_000, 7_000, 10_000] + 49 * [20_000]
BETA = {"intercept": 170.0, "male": 12.0, "age": -0.05}
H2, TOTAL = 0.4, 50.0

truth = np.random.default_rng(1886)
frequency = truth.uniform(0.1, 0.9, MARKERS).astype(np.float32)
# of the columns of W, whose rows have squared norm 1
effects = np.sqrt(H2 * TOTAL) * truth.normal(size=MARKERS)


def block(seed, rows):
    """Return rows that exist here and nowhere else: in a cohort this would read a file."""
    rng = np.random.default_rng([1, seed])
    X = np.column_stack(
        [np.ones(rows), rng.integers(0, 2, rows), rng.integers(20, 80, rows)]
    )
    alleles = sum(
        rng.random((rows, MARKERS), dtype=np.float32) < frequency for _ in range(2)
    )
    W = (alleles - 2 * frequency) / np.sqrt(2 * frequency * (1 - frequency) * MARKERS)
    y = (
        X @ list(BETA.values())
        + W @ effects
        + np.sqrt((1 - H2) * TOTAL) * rng.normal(size=rows)
    )
    return X, W, y


if __name__ == "__main__":  # chains run in processes, which import this file again
    matplotlib.use("Agg")
    figures = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    figures.mkdir(exist_ok=True)

    # %% [markdown]
    # ## One pass
    #
    # The statistics can be fitted at any time, so that what is known can be watched while the rows come in.

    # %%
    # known: after how many rows, and what can be fitted then
    start, statistics, known = time.perf_counter(), None, []
    for seed, rows in enumerate(SIZES):
        if statistics is None:
            statistics = flmm.KernelStatistics.from_arrays(*block(seed, rows))
        else:
            statistics = statistics.update(*block(seed, rows))
        if seed < 6 or seed in (9, 19, len(SIZES) - 1):
            known.append((statistics.n, *statistics.factor()))
    print(statistics)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 ** (
        3 if sys.platform == "darwin" else 2
    )
    print(
        f"simulated and summed in {time.perf_counter() - start:.1f} s;"
        f" the process had {peak:.1f} GB at most\n"
    )

    # %% [markdown]
    # ## REML in milliseconds, NUTS in seconds

    # %%
    spectrum, rotated = statistics.factor()
    start = time.perf_counter()
    fit = flmm.reml(spectrum, rotated)
    print(f"REML in {1e3 * (time.perf_counter() - start):.0f} ms\n{fit}\n")

    model = flmm.kernel_model(rotated, spectrum=spectrum, name="height")
    start = time.perf_counter()
    with model:
        idata = flmm.sample(random_seed=1, progressbar=False)
    print(
        f"\n4 chains of NUTS in {time.perf_counter() - start:.0f} s, compilation included"
    )

    # %% [markdown]
    # ## The truth
    #
    # β and the effects of the markers are drawn from their exact conditional, one draw for each of σ² and δ.

    # %%
    idata = flmm.recover_effects(idata, model=model, random_seed=2)
    beta, a = (
        idata.posterior[f"height_{name}"].to_numpy().reshape(4000, -1)
        for name in ("beta", "a")
    )
    h2 = idata.posterior["height_h2"].to_numpy().ravel()
    rows = {"h2": (H2, h2)} | {
        name: (value, beta[:, j]) for j, (name, value) in enumerate(BETA.items())
    }
    print(f"{'':<12}{'truth':>10}{'mean':>10}{'sd':>10}")
    for name, (value, draws) in rows.items():
        print(f"{name:<12}{value:>10.3f}{draws.mean():>10.3f}{draws.std():>10.4f}")
        assert abs(draws.mean() - value) < 4 * draws.std(), f"{name} was not recovered"
    inside = np.abs(a.mean(0) - effects) < 1.96 * a.std(0)
    print(
        f"{inside.mean():.1%} of the {MARKERS} marker effects lie in their 95 % intervals"
    )
    assert 0.88 < inside.mean() <= 1

    X, W, y = block(len(SIZES), 20_000)  # people that were not in the pass
    new = fit.predict(X, W_new=W)
    covered = np.abs(y - new.mean) < 1.96 * new.se_observation
    print(
        f"{covered.mean():.1%} of {len(y)} new people lie in their 95 % prediction intervals"
    )
    assert abs(covered.mean() - 0.95) < 0.01

    # %% [markdown]
    # ## A figure

    # %%
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4), constrained_layout=True
    )
    counts, posteriors = (
        [n for n, *_ in known],
        [flmm.exact_posterior(*factored) for _, *factored in known],
    )
    lows, highs = np.transpose([posterior.interval("h2") for posterior in posteriors])
    means = [posterior.mean("h2") for posterior in posteriors]
    left.fill_between(counts, lows, highs, color="#9ecae1", label="95 % interval")
    left.plot(counts, means, "o-", color="#08519c", label="posterior mean")
    left.axhline(H2, color="#d94801", ls="--", label="truth")
    left.set(
        xscale="log",
        xlabel="rows that came in",
        ylabel="h²",
        title="What is known while the rows stream",
    )
    left.legend(frameon=False, loc="upper right")

    middle.hist(
        h2,
        bins=60,
        density=True,
        color="#9ecae1",
        edgecolor="white",
        lw=0.3,
        label="NUTS, 10⁶ rows",
    )
    grid = np.linspace(h2.min(), h2.max(), 300)
    middle.plot(
        grid, posteriors[-1].h2_density(grid), color="#08519c", label="exact posterior"
    )
    middle.axvline(H2, color="#d94801", ls="--", label="truth")
    middle.set(xlabel="h²", yticks=[], title="The posterior, sampled and exact")
    middle.legend(frameon=False)

    n, *factored = known[2]
    early = flmm.reml(*factored).factor_effects()
    style = {"fmt": "o", "ms": 3, "lw": 0.8}
    right.errorbar(
        effects,
        early.mean,
        1.96 * early.se,
        color="#bdbdbd",
        label=f"{n} rows, ± 1.96 se",
        **style,
    )
    right.errorbar(
        effects, a.mean(0), 1.96 * a.std(0), color="#08519c", label="10⁶ rows", **style
    )
    ends = [effects.min(), effects.max()]
    right.plot(ends, ends, color="#d94801", ls="--", label="truth")
    right.set(
        xlabel="true effect of a marker",
        ylabel="recovered effect",
        title=f"The {MARKERS} marker effects",
    )
    right.legend(frameon=False)
    figure.savefig(figures / "million_rows.png", dpi=150)
    print(f"figure written to {figures}: million_rows.png")

    # %% [markdown]
    # ![Left, an interval of h² that narrows as rows come in; middle, draws below the exact posterior; right, marker
    # effects on the diagonal](million_rows.png "A million rows that were never in memory together: what is known of
    # h² while they stream, the posterior at the end, and the effects of 100 markers beside the truth.")
