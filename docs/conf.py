"""The site: `make docs` builds it from these pages, the docstrings and what `make examples` wrote. No network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import pm_fastlmm

project = "pm_fastlmm"
author = "The pm_fastlmm developers"
project_copyright = author
version = release = pm_fastlmm.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_design",
    "sphinx.ext.githubpages",
    "dark",
    "figures",
    "gallery",
    "links",
    "signatures",
    "mathml",
    "measured",
    "names",
    "pages",
    "subscripts",
]
exclude_patterns = ["_build", "_extensions", "_look", "_templates"]
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# A docstring's `name` is a link where there is such an object, and code where there is none
default_role = "py:obj"
autosummary_generate = True
autosummary_filename_map = {  # a function and a class whose names differ in case alone
    f"pm_fastlmm.covariance.{name}": f"pm_fastlmm.covariance.{name}-function"
    for name in ("blocks", "incidence", "known", "unstructured")
}
autodoc_typehints = "none"  # numpydoc's sections say it, with shapes
autodoc_member_order = "groupwise"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "pydata_sphinx_theme"
html_title = "pm_fastlmm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).parent / "scorer.js")
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {
    name: []
    for name in ("start", "index", "model", "how_it_works", "genindex", "search")
}  # no siblings

gallery_examples = str(Path(__file__).parents[1] / "examples")
gallery_results = str(Path(__file__).parents[1] / "figures")
gallery_order = [
    "figures",
    "heritability_of_height",
    "animal_model",
    "large_herd",
    "litter_size",
    "presence_over_a_tree",
    "genome_scan",
    "sleepstudy",
    "oats_trial",
    "tests_and_intervals",
    "priors_of_heritability",
    "genetic_correlations",
    "body_size_of_anoles",
    "marker_heritability",
    "families_by_size",
    "spatially_variable_genes",
    "mauna_loa",
    "million_points",
    "million_rows",
    "billion_points",
]
page_lists = {
    "guides": [
        "quickstart",
        "which",
        "pymc_component",
        "structured",
        "relationships",
        "pedigrees",
        "genotype_files",
        "several_traits",
        "tests_and_intervals",
        "priors",
        "many_responses",
        "prediction_and_loo",
        "lengthscale",
        "fourier",
        "not_normal",
        "related_effects",
        "large_data",
        "calibration",
    ],
    "more": [
        "installation",
        "faq",
        "glossary",
        "benchmarks",
        "peers",
        "coverage",
        "genetic_correlations",
        "laplace_bias",
        "changelog",
        "citing",
        "contributing",
    ],
}
pages_of_long_runs = [
    "peers",
    "coverage",
    "genetic_correlations",
    "laplace_bias",
]  # of `make peers`, and of tests/calibration: interval_coverage.py, genetic_correlation.py, laplace_bias.py
