"""Names of families and links, and what is said of responses outside their support."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from pm_fastlmm.families.choice import family_of


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Poisson", "poisson"),
        ("negbinomial", "negative_binomial"),
        ("nbinom2", "negative_binomial"),
        ("Negative Binomial", "negative_binomial"),
        ("Gamma", "gamma"),
    ],
)
def test_names_of_other_software(written, name):
    assert family_of(written).name == name


def test_cumulative_is_ordinal():
    family = family_of("cumulative", categories=3)
    assert (family.name, family.link, family.parameters) == ("ordinal", "logit", ("cutpoint[1]", "cutpoint[2]"))
    assert family_of(family) is family


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("poison", {}, "family must be one of 'bernoulli', .*'ordinal', got 'poison'. Did you mean 'poisson'?"),
        ("gaussian", {}, "got 'gaussian'. Normal responses are the model without family="),
        (3, {}, "family must be one of .* got 3.$"),
        (len, {}, r"got <built-in function len>. A log-density of your own is flmm.CustomFamily\(log_density\)"),
        ("poisson", {"link": "sqrt"}, "link of family 'poisson' must be 'log', got 'sqrt'"),
        ("bernoulli", {"link": "probits"}, "must be 'logit' or 'probit' or 'cloglog', got .*Did you mean 'probit'?"),
        ("binomial", {}, "family 'binomial' needs trials=.*responses of 0 and 1 are family='bernoulli'"),
        ("binomial", {"trials": [3, 0]}, "trials must be positive integers, but 1 of 2 .* the first 0 in row 1: "),
        ("binomial", {"trials": 2.5}, "trials must be positive integers, but 1 of 1 values are not, the first 2.5"),
        ("binomial", {"trials": [3, np.nan]}, "trials has 1 missing values"),
        ("bernoulli", {"trials": 3}, "trials= is of family 'binomial', this one is 'bernoulli': leave it out"),
        ("poisson", {"categories": 3}, "categories= is of family 'ordinal', this one is 'poisson': leave it out"),
        ("ordinal", {}, "family 'ordinal' needs categories=, how many there are, an integer from 2 on, got None"),
        ("ordinal", {"categories": 1}, "an integer from 2 on, got 1"),
        ("ordinal", {"categories": True}, "an integer from 2 on, got True"),
    ],
)
def test_a_family_that_there_is_not(name, given, message):
    with pytest.raises(ValueError, match=message):
        family_of(name, **given)


@pytest.mark.parametrize(
    ("name", "given", "y", "message"),
    [
        (
            "bernoulli",
            {},
            [0, 2, 1],
            "y must be 0 or 1 for family 'bernoulli', but 1 of 3 .*, the first 2 in row 1: code",
        ),
        ("bernoulli", {}, [0.5], "the first 0.5 in row 0: code the categories as 0 and 1; counts of successes"),
        (
            "poisson",
            {},
            [1, 2.5],
            "y must be counts, the integers 0, 1, 2 …, for family 'poisson', .* 2.5 in row 1: rates",
        ),
        ("poisson", {}, [-1, 2], "the first -1 in row 0"),
        ("negative_binomial", {}, [np.inf], "for family 'negative_binomial', but 1 of 1 values are not, the first inf"),
        ("binomial", {"trials": [3, 4]}, [4, 4], "successes, integers from 0 to the trials, .* the first 4 in row 0"),
        (
            "binomial",
            {"trials": [3, 4]},
            [1, 0.5],
            "the first 0.5 in row 1: proportions are multiplied by their trials",
        ),
        ("binomial", {"trials": [3, 4]}, [1, 0, 2], "trials has 2 values, y has 3: give one number for each row"),
        ("gamma", {}, [1.5, 0.0], "y must be positive numbers for family 'gamma', .* the first 0 in row 1: zeros need"),
        (
            "ordinal",
            {"categories": 3},
            [0, 3],
            "y must be codes 0 … 2 for family 'ordinal', .* the first 3 in row 1: cat",
        ),
    ],
)
def test_a_response_outside_the_support(name, given, y, message):
    with pytest.raises(ValueError, match=message):
        family_of(name, **given).read(np.array(y))


def test_responses_are_read_as_floats_and_missing_ones_are_left():
    assert_array_equal(family_of("bernoulli").read(pd.Series([True, False])), [1.0, 0.0])
    assert_array_equal(family_of("poisson").read([1, np.nan]), [1, np.nan])
    assert_array_equal(family_of("binomial", trials=4).read([0, 4]), [0, 4])


def test_other_rows_have_other_trials():
    family = family_of("binomial", "probit", trials=[3, 4])
    assert_array_equal(family.of_rows([2, 2, 9]).trials, [2, 2, 9])
    assert family.of_rows(7).link == "probit"
    assert family_of(family, trials=5).trials == 5
    with pytest.raises(ValueError, match="needs trials="):
        family.of_rows()
    poisson = family_of("poisson")
    assert poisson.of_rows() is poisson
    with pytest.raises(ValueError, match="trials are of family 'binomial', this one is 'poisson': leave trials= out"):
        poisson.of_rows([1, 2])
