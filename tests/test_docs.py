"""The code of the guides runs as it stands there, in its order."""

import importlib.util
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import pm_fastlmm as flmm

DOCS = Path(__file__).parents[1] / "docs"
_spec = importlib.util.spec_from_file_location("outputs", DOCS / "_extensions" / "outputs.py")
outputs = sys.modules["outputs"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(outputs)


def run(guide, blocks=None):
    """Run the blocks of a guide, or the first ones, one after the other and return the names that they leave."""
    matplotlib.use("Agg")
    found = re.findall(r"```python\n(.*?)```", (DOCS / guide).read_text(), flags=re.DOTALL)
    assert len(found) > 3
    names = {}
    for block in found[:blocks]:
        exec(compile(block, guide, "exec"), names)
    return names


def test_the_guide_to_structured_models_runs():
    run("structured.md")


def test_the_guide_to_large_pedigrees_runs_and_prints_what_stands_there():
    blocks, names = outputs.run(DOCS / "pedigrees.md")
    assert [difference for block in blocks for difference in block.differences()] == []
    assert names["fit"].converged
    assert names["maternal"].converged


def test_the_guide_to_genotype_files_runs_and_prints_what_stands_there(caplog):
    blocks, names = outputs.run(DOCS / "genotype_files.md")
    said = " ".join(record.getMessage() for record in caplog.records[:5])
    assert said in " ".join((DOCS / "genotype_files.md").read_text().split())
    assert [difference for block in blocks for difference in block.differences()] == []
    assert names["best"].index[0] == "rs123"


def test_the_guide_to_several_traits_runs_and_prints_what_stands_there():
    blocks, names = outputs.run(DOCS / "several_traits.md")
    assert [difference for block in blocks for difference in block.differences()] == []
    assert names["five"].converged


def test_the_guide_to_relationships_runs(capsys):
    run("relationships.md")
    printed = re.findall(r"```text\n(.*?)```", (DOCS / "relationships.md").read_text(), flags=re.DOTALL)
    out = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert out == [line for block in printed for line in block.splitlines()]


def test_the_guide_to_lengthscales_runs():
    names = run("lengthscale.md")
    assert names["fit"].converged
    assert names["spectra"].error <= names["spectrum"].tolerance
    curve = names["idata"].predictions["y_mean"].mean(("chain", "draw"))
    assert np.abs(curve - np.sin(6 * names["x_new"])).max() < 0.5


def test_the_guide_to_many_responses_runs():
    names = run("many_responses.md")
    assert np.isfinite(names["result"].p_value).all()
    assert names["fit"].converged


def test_the_guide_to_tests_and_intervals_runs_and_prints_what_stands_there():
    blocks, names = outputs.run(DOCS / "tests_and_intervals.md")
    assert [difference for block in blocks if block.expected for difference in block.differences()] == []
    assert names["test"].p_value < 0.01
    assert names["tests"].p_value.max() == 1
    assert names["sleep"].coefficients()["df"].round(3).eq(17).all()


def test_the_guide_to_responses_that_are_not_normal_runs_and_prints_what_stands_there():
    pytest.importorskip("nutpie")
    blocks, names = outputs.run(DOCS / "not_normal.md")
    assert [difference for block in blocks for difference in block.differences()] == []
    fit = names["fit"]
    low, high = fit.interval("sow")
    assert low < 0.25**2 < high
    assert np.corrcoef(fit.blup("sow"), names["truth"][names["pigs"].rows(fit.blup("sow").index)])[0, 1] > 0.7
    assert not names["failed"].converged


def test_the_guide_to_effects_for_any_likelihood_runs_and_prints_what_stands_there():
    pytest.importorskip("nutpie")
    blocks, names = outputs.run(DOCS / "related_effects.md")
    assert [difference for block in blocks for difference in block.differences()] == []
    pigs, draws = names["pigs"], names["draws"]
    assert tuple(draws["animal"].values) == pigs.labels
    assert np.corrcoef(draws["u"].mean(("chain", "draw")), names["truth"])[0, 1] > 0.6
    assert 0.15 < float(draws["sigma"].mean()) < 0.35


def test_the_guide_to_rows_that_do_not_fit_in_memory_runs_up_to_its_files():
    names = run("large_data.md", blocks=3)
    assert names["result"].p_value.idxmin() == "snp7"
    assert names["fit"].converged
    assert names["fit"].node.n == 5000


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution")  # what the guide speaks of
@pytest.mark.filterwarnings("ignore:X has rank 3 but 4 columns", "ignore:the data do not determine the fixed effects")
def test_the_guide_to_prediction_and_leave_one_out_runs():
    names = run("prediction_and_loo.md")
    assert names["loo"].n_data_points == 180
    assert np.isfinite(names["in_cells"].se).tolist() == [True, True, True, False]
    assert names["pit"]["Reaction"].shape == (180,)
    assert names["table"].loc["slopes", "reference"] == "½χ²₁ + ½χ²₂"
    assert names["replicates"].shape == (180, 100)


def test_the_guide_to_priors_runs():
    names = run("priors.md")
    table, exact = names["table"], names["exact"]
    assert abs(table.loc["half-normal", "mean"] - exact.mean("h2")) < 1e-6
    assert set(names["sensitivity"].index) == {"h2", "total"}
    assert abs(float(names["by_draws"].probability) - names["negligible"]) < 5 * float(names["by_draws"].mcse) + 0.01


def test_the_readme_runs():
    names = run("../README.md")
    assert names["fit"].converged
    assert names["idata"].posterior.sizes["chain"] == 4


def test_the_changelog_lists_what_is_public():
    text = (DOCS / "changelog.md").read_text()
    assert [name for name in flmm.__all__ if f"`{name}" not in text] == []
    for module in ("priors", "results"):
        names = getattr(flmm, module).__all__
        assert [name for name in names if f"`{name}" not in text and f"`{module}.{name}" not in text] == []


def test_the_guide_to_fourier_features_runs():
    names = run("fourier.md")
    assert names["fit"].converged
    truth = np.sin(names["grid"]) + 0.3 * names["grid"]
    assert np.abs(names["averaged"].mean - truth).max() < 5 * names["averaged"].se.max()
    assert np.abs(names["averaged"].mean - names["at_reml"].mean).max() < names["averaged"].se.max()
    assert names["curves"].shape == (20, 200)
