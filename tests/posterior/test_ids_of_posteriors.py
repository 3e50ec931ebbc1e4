"""Ids that a posterior cannot hold are refused when the model is made; the others label it as they came in."""

import decimal

import numpy as np
import pandas as pd
import pymc as pm
import pytest

import pm_fastlmm as flmm
from pm_fastlmm.base.coordinates import require_labels

N = 12
GROUPS = np.repeat(list("abcd"), 3)
Y = np.random.default_rng(1).normal(size=N) + np.repeat([0, 2, 1, 3], 3)
DAYS = pd.date_range("2020-01-01", periods=N)

TUPLES = [("a", i) for i in range(N)]
BAD = {
    "text and integers": (["a", *range(1, N)], r"several types.*would change 1 into '1'"),
    "text and floats": ([*"abcdefghijk", 1.5], r"would change 1.5 into '1.5'"),
    "text and booleans": ([*"abcdefghijk", True], r"would change True into 'True'"),
    "booleans and integers": ([True, False, *range(2, N)], r"are of several types, True beside numbers, where True is"),
    "text and bytes": ([*"abcdefghijk", b"l"], r"would change b'l' into 'l'"),
    "integers above 2^53 among floats": ([2**53 + 1, 0.5, *range(2, N)], r"would change 9007199254740993 into 9007"),
    "text that ends in a null": (["a\0", *"abcdefghijk"], r"would change 'a\\x00' into 'a'"),
    "tuples": (TUPLES, r"are tuples \(\('a', 0\).*join their parts.*reset_index\(\)"),
    "one tuple": ([*range(N - 1), ("a", 1)], r"are tuples \(\('a', 1\)"),
    "None": (["a", None, *"cdefghijkl"], r"are missing at 1:"),
    "NaN among text": ([*"abcdefghijk", float("nan")], r"are missing at 11:"),
    "NaN among numbers": ([1.0, np.nan, *map(float, range(2, N))], r"are missing at 1:"),
    "NA": ([pd.NA, *"bcdefghijkl"], r"are missing at 0:"),
    "NaT": ([pd.NaT, *DAYS[1:]], r"are missing at 0:"),
}
GOOD = {
    "text": [f"id{i}" for i in range(N)],
    "integers": list(range(10, 10 + N)),
    "integers and floats": [0.5, *range(1, N)],
    "large integers": [2**60 + i for i in range(N)],
    "timestamps": list(DAYS),
    "dates": [day.date() for day in DAYS],
    "decimals": [decimal.Decimal(i) / 7 for i in range(N)],
}
bad = pytest.mark.parametrize("case", BAD)
good = pytest.mark.parametrize("case", GOOD)


def index_of(case):
    ids = (BAD[case][0] if case in BAD else GOOD[case]) if isinstance(case, str) else case
    return pd.Index(ids, dtype=object, tupleize_cols=False)


def table(index, groups=GROUPS):
    return pd.DataFrame({"y": Y, "x": np.linspace(0, 1, N), "g": groups}, index=index)


def kernel(index):
    K = (GROUPS[:, None] == GROUPS) * 1.0
    return pd.DataFrame(K, index=index, columns=index)


@bad
def test_kernel_model_refuses_ids_that_would_be_changed(case):
    with pytest.raises(ValueError, match="the ids of the observations.*" + BAD[case][1]):
        flmm.kernel_model(pd.Series(Y, index_of(case)), np.ones((N, 1)), kernel(index_of(case)))


@bad
def test_lmm_model_refuses_ids_that_would_be_changed(case):
    with pytest.raises(ValueError, match="the index of data,.*" + BAD[case][1]):
        flmm.lmm_model("y ~ x + (1|g)", table(index_of(case)))


LEVELS = {
    "text and integers": (["a", 1, 2, 3], r"of several types"),
    "text and booleans": (["a", "b", "c", True], r"would change True into 'True'"),
    "text that ends in a null": (["a\0", "a", "b", "c"], r"would change 'a\\x00' into 'a'"),
    "tuples": (TUPLES[:4], r"are tuples"),
}


@pytest.mark.parametrize("case", LEVELS)
def test_levels_that_would_be_changed_are_refused(case):
    levels, message = LEVELS[case]
    rows = pd.Series([levels[i] for i in np.repeat(range(4), 3)], dtype=object)
    term = flmm.Term(rows, flmm.covariance.scalar(1.0), name="g")
    with pm.Model(), pytest.raises(ValueError, match=r"the levels of term 'g' of y.*" + message):
        flmm.StructuredLMM("y", terms=[term], sigma2_e=1.0, observed=Y)
    with pytest.raises(ValueError, match=r"the levels of 'g'.*" + message):
        flmm.lmm_model("y ~ x + (1|g)", table(range(N), rows))


def test_a_multiindex_is_refused_as_its_tuples():
    index = pd.MultiIndex.from_tuples(TUPLES)
    with pytest.raises(ValueError, match=r"the index of data, are tuples"):
        flmm.lmm_model("y ~ x + (1|g)", table(index))
    with pytest.raises(ValueError, match=r"the ids of the observations are tuples"):
        flmm.kernel_model("y ~ x", data=table(index), K=kernel(index).to_numpy())


def nodes(y):
    spectrum = flmm.Spectrum.from_covariance(kernel(None).to_numpy() + np.eye(N))
    basis = flmm.FourierBasis(lengthscale=(0.2, 1.0), domain=(0, 1), n=N, noise_ratio_min=0.1)
    x = np.linspace(0, 1, N)
    lengthscales = flmm.LengthscaleSpectrum.from_coordinates(x, lengthscale=(0.2, 1.0), progressbar=False)
    one = {"sigma2_g": 1.0, "sigma2_e": 1.0, "observed": Y, "dims": "obs"}
    term = flmm.Term(GROUPS, flmm.covariance.scalar(1.0))
    return {
        "FastLMM": lambda: flmm.FastLMM("y", spectrum=spectrum, **one),
        "StructuredLMM": lambda: flmm.StructuredLMM("y", terms=[term], sigma2_e=1.0, observed=Y, dims="obs"),
        "DenseLMM": lambda: flmm.DenseLMM("y", V=np.eye(N), observed=Y, dims="obs"),
        "LengthscaleLMM": lambda: flmm.LengthscaleLMM("y", spectrum=lengthscales, lengthscale=0.5, **one),
        "FourierLMM": lambda: flmm.FourierLMM(
            "y",
            statistics=flmm.FourierStatistics.from_arrays(basis, x, Y),
            lengthscale=0.5,
            sigma2=1.0,
            sigma2_e=1.0,
            dims="obs",
        ),
    }


@pytest.mark.parametrize("node", nodes(Y))
@pytest.mark.parametrize("case", ["text and integers", "tuples", "None"])
def test_every_node_refuses_coordinates_that_would_be_changed(node, case):
    message = "the coordinates of 'obs', a dimension of y,.*" + BAD[case][1]
    with pm.Model(coords={"obs": list(index_of(case))}), pytest.raises(ValueError, match=message):
        nodes(Y)[node]()


def test_a_statistic_is_labelled_by_the_ids_of_its_spectrum():
    index = index_of("text and integers")
    spectrum = flmm.Spectrum.from_covariance(kernel(index))
    with pm.Model(), pytest.raises(ValueError, match=r"the ids of the spectrum are of several types"):
        flmm.FastLMM("y", spectrum=spectrum, h2=0.5, total=1.0, observed=spectrum.rotate(Y))


def test_names_of_responses_that_are_the_same_as_text_are_refused():
    responses = pd.DataFrame({1: Y, "1": Y[::-1]})
    with pytest.raises(ValueError, match=r"names of the responses are the same as text for several \('1'\)"):
        flmm.kernel_model(responses, np.ones((N, 1)), kernel(None).to_numpy())


@pytest.fixture(scope="module")
def sampled():
    """A model of each kind with ids of its own, sampled once."""
    out = {}
    for case in ("dates", "integers and floats"):
        with flmm.lmm_model("y ~ x + (1|g)", table(index_of(case), np.repeat([3, 1, 4, 2.5], 3))) as model:
            idata = flmm.sample(10, tune=10, chains=1, random_seed=1, progressbar=False, quiet=True)
        out[case] = model, idata
    return out


@pytest.mark.parametrize("case", ["dates", "integers and floats"])
def test_effects_predictions_and_densities_are_found_by_the_ids_that_came_in(sampled, case):
    model, idata = sampled[case]
    idata = flmm.recover_effects(idata, model=model, random_seed=1)
    flmm.predict(idata, model=model, random_seed=1)
    flmm.pointwise_log_likelihood(idata, model=model, progressbar=False)
    ids = GOOD[case]
    for found in (idata.posterior_predictive["y"], idata.log_likelihood["y"]):
        assert found.indexes["obs"].tolist() == ids
        assert not np.isnan(found.reindex(obs=ids)).any()
    assert idata.posterior["y_g"].indexes["g"].tolist() == [1, 2.5, 3, 4]


@pytest.mark.parametrize("case", ["text and integers", "tuples", "None"])
def test_new_rows_and_groups_that_would_be_changed_are_refused(sampled, case):
    model, idata = sampled["dates"]
    new = table(index_of(case), np.repeat([3, 1, 4, 2.5], 3))
    with pytest.raises(ValueError, match="the ids of data.*" + BAD[case][1]):
        flmm.predict(idata, data=new, model=model)
    if case != "None":  # of which a grouping factor tells itself
        groups = np.empty(N, dtype=object)
        groups[:] = BAD[case][0][:2] * (N // 2)
        with pytest.raises(ValueError, match=r"groups are .*(several types|tuples)"):
            flmm.pointwise_log_likelihood(idata, groups=groups, model=model, progressbar=False)


@good
def test_labels_of_one_type_are_taken(case):
    require_labels(GOOD[case], "the ids")
    model = flmm.kernel_model(pd.Series(Y, index_of(case)), np.ones((N, 1)), kernel(index_of(case)))
    assert list(model.coords["obs"]) == GOOD[case]


@pytest.mark.parametrize(
    "levels", [["a", 1, 2, 3], TUPLES[:4], [True, False, 2, 3]], ids=["mixed", "tuples", "booleans"]
)
def test_the_remedy_for_levels_names_their_column_and_works(levels):
    data = table(range(N), pd.Series(levels * 3, dtype=object))
    with pytest.raises(ValueError, match=r"the levels of 'g' are") as caught:
        flmm.lmm_model("y ~ x + (1|g)", data)
    assert "reset_index" not in str(caught.value)
    remedy = str(caught.value).rpartition(", ")[2] if "text say" in str(caught.value) else ""
    remedy = remedy or str(caught.value).split("their parts, ")[1]
    exec(remedy.removesuffix("."), {"table": data})
    assert flmm.lmm_model("y ~ x + (1|g)", data).coords["g"] == tuple(sorted(data["g"].unique()))


@pytest.mark.parametrize("labels", [[2**63 + 1, -5], ["a", "b\0"]], ids=["integers of two types", "a text that is cut"])
def test_labels_of_one_kind_that_arrays_change_are_refused(labels):
    with pytest.raises(ValueError, match="would change"):
        require_labels(labels, "the ids")
