"""The pages of the site run, print what they say, link to what exists, and leave nothing public out."""

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from docutils import nodes
from docutils.utils import new_document
from statsmodels.regression.mixed_linear_model import MixedLM

import pm_fastlmm as flmm

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    DOCS / name for name in ("index.md", "installation.md", "quickstart.md", "faq.md", "model.md", "pymc_component.md")
] + sorted((DOCS / "users").glob("[!i]*.md"))


def extension(name):
    """Import a module of the site's configuration."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, DOCS / "_extensions" / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


percent, outputs, measured, dark = map(extension, ("percent", "outputs", "measured", "dark"))
pages, links, names_of, signatures, gallery = map(extension, ("pages", "links", "names", "signatures", "gallery"))
figures, subscripts, mathml = map(extension, ("figures", "subscripts", "mathml"))


@pytest.mark.filterwarnings("ignore:2 of 130 rows dropped")  # what the quickstart speaks of
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_code_of_a_page_prints_what_stands_below_it(page):
    blocks, names = outputs.run(page)
    assert blocks
    for block in blocks:
        assert block.differences() == []
    if page.stem == "model":  # statsmodels is a peer of that page
        peer = MixedLM.from_formula("Reaction ~ Days", names["sleep"], groups="Subject").fit(reml=True)
        assert abs(peer.llf - names["fit"].loglik) < 1e-6


@pytest.mark.parametrize(
    ("page", "fit", "digits"), [("lme4", "sleepstudy_slope_reml", 4), ("sommer", "john_alpha_reml", 6)]
)
def test_the_numbers_of_lme4_on_a_page_are_those_of_its_fit(page, fit, digits):
    fits = json.loads((ROOT / "tests" / "reference" / "lme4_nlme.json").read_text())
    vcov = next(record["vcov"] for record in fits if record["name"] == fit)
    sentence = re.search(
        r"^lme4[^\n]* gives? .*?\n\n", (DOCS / "users" / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert [value for value in vcov if f"{value:.{digits}f}" not in sentence[0]] == []


def test_the_numbers_of_gemma_on_a_page_are_those_that_it_printed():
    theirs = json.loads((ROOT / "tests" / "reference" / "mvlmm_gemma.json").read_text())["2"]
    sentence = re.search(r"^GEMMA 0.98.5 prints.*?\n\n", (DOCS / "users" / "gemma.md").read_text(), re.M | re.S)
    values = [value for part in ("Vg", "Ve") for row in theirs[part] for value in row]
    assert [value for value in values if f"{value:g}" not in sentence[0]] == []


def test_the_numbers_of_the_readme_are_those_of_the_fit_and_of_the_exact_posterior():
    people = flmm.datasets.galton_families()
    K = flmm.covariance.pedigree(people.index, people["father"], people["mother"])
    design = flmm.Design.from_formula("height ~ sex + generation", people, K=K)
    fit, exact = (f(design.spectrum(), design.y) for f in (flmm.reml, flmm.exact_posterior))
    errors = fit.standard_errors()
    table = re.findall(r"^\| (h²|σ²|δ|σ²_e) \| (.*?) ± (.*?) \| (.*?)\((.*?) – (.*?)\) \|$", readme(), re.MULTILINE)
    assert len(table) == 4
    names = {"h²": "h2", "σ²": "sigma2", "δ": "delta", "σ²_e": "sigma2_e"}
    for symbol, estimate, error, mean, low, high in table:
        name = names[symbol]
        assert abs(getattr(fit, name) - float(estimate)) < 6e-3
        assert abs(errors[name] - float(error)) < 6e-3
        spread = exact.sd(name) if mean else float(high) - float(low)  # δ has no mean
        posterior = [exact.mean(name)] * bool(mean) + list(exact.interval(name, 0.95))
        for expected, value in zip(posterior, [*filter(None, [mean]), low, high], strict=True):
            assert abs(expected - float(value)) < 0.15 * spread  # the table's are draws


def readme():
    return (ROOT / "README.md").read_text()


def test_outputs_are_compared_in_words_and_in_digits():
    def differences(expected, got, code="print(fit)"):
        return outputs.Block(code, expected, got).differences()

    assert differences("h2 0.6894 ok", "h2 0.6895  ok") == []
    assert differences("h2 0.6894 ok", "h2 0.71 ok") == ["0.6894 became 0.71"]
    assert differences("h2 0.69", "h2 0.73", "print(idata)") == []
    assert differences("h2 0.69", "h2 0.79", "print(idata)") == ["0.69 became 0.79"]
    assert len(differences("converged", "not converged")) == 1
    assert len(differences("", "1.0")) == 1


def test_outputs_are_written_below_their_block(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\nand\n\n```python\nx = 1\n```\n")
    outputs.write(page)
    assert (
        page.read_text() == "# A\n\n```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n\nand\n\n```python\nx = 1\n```\n"
    )


def test_the_api_page_lists_everything_public():
    page = (DOCS / "api.rst").read_text()
    modules = {
        "pm_fastlmm": flmm,
        "pm_fastlmm.covariance": flmm.covariance,
        "pm_fastlmm.priors": flmm.priors,
        "pm_fastlmm.results": flmm.results,
    }
    listed = {name: set() for name in modules}
    for section in page.split(".. currentmodule:: ")[1:]:
        listed.setdefault(section.split()[0], set()).update(re.findall(r"^   (\w+)$", section, flags=re.MULTILINE))
    names = re.findall(r"^   (\w+)$", page, flags=re.MULTILINE)
    assert sorted(set(names)) == sorted(names)
    objects = {id(getattr(module, name)) for heading, module in modules.items() for name in listed[heading]}
    for heading, module in modules.items():
        names = set(module.__all__)
        missing = [n for n in sorted(names - {"priors", "results"}) if id(getattr(module, n)) not in objects]
        assert missing == [], f"docs/api.rst lacks {missing} of {heading}"
        assert listed[heading] <= names
    for module in (flmm.datasets, flmm.plots):
        public = getattr(module, "__all__", None) or [
            n
            for n, f in vars(module).items()
            if not n.startswith("_") and getattr(f, "__module__", "") == module.__name__
        ]
        assert [n for n in public if f"   {n}\n" not in page] == []


def test_every_example_has_a_place_in_the_gallery_and_a_figure():
    text = (DOCS / "conf.py").read_text()
    order = re.findall(r'"(\w+)"', text[text.index("gallery_order") : text.index("page_lists")])
    scripts = sorted((ROOT / "examples").glob("*.py"))
    assert set(order) <= {script.stem for script in scripts}
    for script in scripts:
        first = percent.cells(script.read_text())[0]
        assert first.markdown
        assert first.text.startswith("# ")


def test_the_cells_of_a_guarded_script_stand_at_the_margin():
    source = (
        "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nimport sys\n\n"
        'if __name__ == "__main__":  # why\n    x = 1\n\n    # %%\n    print(x)\n'
    )
    title, first, second = percent.cells(source)
    assert title == percent.Cell("# Title\n\nText.", True)
    assert first.text == "import sys\n\nx = 1"
    assert second.text == "print(x)"


def test_what_a_script_prints_is_kept_by_cell(tmp_path, capfd):
    script = tmp_path / "small.py"
    script.write_text(
        "# %% [markdown]\n# # Small\n\n# %%\nprint('one')\n\n# %%\nprint('two')\nprint('three')\n\n# %%\n"
    )
    percent.run(script, tmp_path)
    assert '"outputs": [\n  "one\\n",\n  "two\\nthree\\n",\n  ""\n ]' in (tmp_path / "small.json").read_text()
    assert capfd.readouterr().out == "one\ntwo\nthree\n"
    assert gallery.has_run(script, tmp_path)
    script.write_text(script.read_text() + "\n# %%\nprint('four')\n")
    assert not gallery.has_run(script, tmp_path)


def test_a_warning_of_an_example_is_its_failure(tmp_path, capfd):
    script = tmp_path / "small.py"
    script.write_text("# %%\nimport warnings\nwarnings.warn('no')\n")
    with pytest.raises(SystemExit):
        percent.run(script, tmp_path)
    assert not (tmp_path / "small.json").exists()
    assert "no" in capfd.readouterr().err


def test_measured_rows_are_those_of_the_benchmark_page():
    head = ["| figure | median | range |", "|---|---|---|"]
    lines = ["| | ratio |", "|---|---|", "| z | 1 |", "", *head, "| a | 1 s | |", "| … / x | 2 × | |", "| b | 3 s | |"]
    table = "\n".join([*lines, "| … / x | 4 × | |"])
    assert measured.rows(table, ["b", "… / x"]) == [*head, "| b | 3 s | |", "| … / x | 4 × | |"]
    assert measured.rows(table, ["z"]) == ["| | ratio |", "|---|---|", "| z | 1 |"]
    with pytest.raises(ValueError, match="no row 'c'"):
        measured.rows(table, ["c"])
    with pytest.raises(ValueError, match="'a' is in another table"):
        measured.rows(table, ["z", "a"])


def test_guides_are_those_that_exist_and_those_that_no_page_lists(tmp_path):
    for name in ("index", "guides", "b", "c", "d"):
        (tmp_path / f"{name}.md").write_text("# Page\n")
    (tmp_path / "index.md").write_text("```{toctree}\nguides\nd\n```\n")
    lists = {"guides": ["c", "absent"], "more": ["guides"]}
    assert pages.listed(tmp_path, lists, "guides") == ["c", "b"]
    assert pages.listed(tmp_path, lists, "more") == ["guides"]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda p: p.stem)
def test_links_to_files_of_the_repository_exist(page):
    targets = re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    generated = ("gallery/", "api/")
    local = [t for t in targets if "://" not in t and not t.startswith(generated)]
    made = {DOCS / "peers.md", DOCS / "coverage.md"}  # written by runs of hours
    assert [t for t in local if (page.parent / t) not in made and not (page.parent / t).exists()] == []


TEXTS = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "users").glob("*.md"))]


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.stem)
def test_code_of_a_page_is_not_wider_than_its_column(page):
    blocks = re.findall(r"^```\w+\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [line for block in blocks for line in block.splitlines() if len(line) > 88] == []


def test_code_that_names_something_public_is_known_by_its_full_name():
    structures = ("covariance.Scalar", "covariance.AR1", "covariance.BlockDiagonal")
    known = {f"pm_fastlmm.{name}" for name in ("reml", "priors.ready", "results.REMLFit", *structures)}
    assert names_of.public("flmm.reml(spectrum, y)", known) == "pm_fastlmm.reml"
    assert names_of.public("reml", known) == "pm_fastlmm.reml"
    assert names_of.public("cov.scalar(v)", known) == "pm_fastlmm.covariance.Scalar"
    assert names_of.public("cov.ar1(1, 0.5)", known) == "pm_fastlmm.covariance.AR1"
    assert names_of.public("covariance.block_diagonal", known) == "pm_fastlmm.covariance.BlockDiagonal"
    assert names_of.public("REMLFit", known) == names_of.public("flmm.results.REMLFit", known)
    assert names_of.public("REMLFit", known) == "pm_fastlmm.results.REMLFit"
    assert names_of.public("priors.ready(rotated)", known) == "pm_fastlmm.priors.ready"
    assert names_of.public("ready", known) is None
    assert names_of.public("fit.reml", known) is None
    assert names_of.public("scalar", known) is None


def test_subscripts_of_docstrings_are_no_references():
    lines = ["p(y_i | y_-i), `y_-i`, mu_", "", "    y_-i ::", "", "        y_-i", "", ">>> y_-i", "y_-i", "", "y_-i"]
    signatures.keep_subscripts(None, "function", "f", None, None, lines)
    assert lines[0] == r"p(y_i | y\_-i), `y\_-i`, mu\_"
    assert lines[2:] == [r"    y\_-i ::", "", "        y_-i", "", ">>> y_-i", "y_-i", "", r"y\_-i"]


def test_the_pages_that_a_search_puts_last_exist():
    lists = re.search(r"LISTS = (\[.*?\])", (DOCS / "scorer.js").read_text())
    assert [name for name in json.loads(lists[1]) if not (DOCS / f"{name}.md").exists()] == []


def test_links_within_the_built_site_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">x</a><a href="b.html#there">x</a><a href="#top">x</a><b id="top">'
    )
    (tmp_path / "b.html").write_text(
        '<b id="here"></b><img src="c.png"><a href="https://x.org/y">x</a><a href="a.html">x</a>'
    )
    assert sorted(links.broken(tmp_path)) == ["a.html: b.html#there", "b.html: c.png"]


def test_formulas_beside_each_other_are_told_apart_where_they_are_whole():
    assert mathml.parts(r"y = x,\qquad x \sim N(0, 1)") == ["y = x,", r" x \sim N(0, 1)"]
    for formula in (r"\sqrt{a \qquad b}", r"\begin{matrix}a \qquad b\end{matrix}"):
        assert mathml.parts(formula) == [formula]


def test_subscripts_of_a_sentence_stand_low_and_names_stay():
    def lowered(text):
        return [node.astext() for node in subscripts.pieces(text) if isinstance(node, nodes.subscript)]

    assert lowered("σ²_gλ_i + σ²_e, y_−i and y_i") == ["g", "i", "e", "−i", "i"]
    assert lowered("½χ²_{q−1}, P_SS⁻¹, [(UᵀU/n)⁻¹]_jj, X_new, λ_max/δ") == ["q−1", "SS", "jj", "new", "max"]
    assert lowered("reml_point, n_sim, x86_64, torch_openreml, p_lrt, fit.y_i, Homo_sapiens") == []
    assert "".join(node.astext() for node in subscripts.pieces("a σ²_e b")) == "a σ²e b"


def test_an_image_with_a_title_is_a_figure_and_what_one_lacks_is_said():
    document = new_document("page")
    image = nodes.image(uri="figures/two_lines.png", alt="Two lines that\ncross at zero", title="Both\nof them.")
    document += nodes.paragraph("", "", image)
    figures.frame(document)
    assert isinstance(document[0], nodes.figure)
    assert document[0][1].astext() == "Both of them."
    assert image["alt"] == "Two lines that cross at zero"
    assert figures.lacks(image) is None
    bare = nodes.image(uri="figures/two_lines_that_cross.png", alt="Two lines that cross")
    document += nodes.paragraph("", "", bare)
    assert "caption" in figures.lacks(bare)
    bare["classes"] = ["sd-card-img-top"]
    assert figures.lacks(bare) is None
    for alt in ("", "figure", "two lines that cross"):
        assert "do not see" in figures.lacks(
            nodes.image(uri="two_lines_that_cross.png", alt=alt, classes=bare["classes"])
        )


def test_the_words_of_an_image_are_parted_where_a_line_ends():
    assert figures.on_one_line('a\n![Two\n  lines](x.png\n"Both\nof")') == 'a\n![Two lines](x.png\n"Both\nof")'


def test_a_figure_for_dark_pages_stands_behind_the_one_for_light_ones():
    document = new_document("page")
    image = nodes.image(uri="gallery/two.png", alt="Two lines that cross", title="Both.")
    document += nodes.paragraph("", "", image)
    figures.frame(document)
    dark.pair(image)
    light, other = document.children
    assert (light["classes"], light[0]["uri"], light[1].astext()) == (["only-light"], "gallery/two.png", "Both.")
    assert (other["classes"], other[0]["uri"], other[1].astext()) == (["only-dark"], "gallery/two_dark.png", "Both.")
    assert (other[0]["alt"], other[0]["classes"]) == (image["alt"], ["only-dark"])


def test_a_figure_of_an_example_stands_below_the_cell_that_draws_it(tmp_path):
    script = tmp_path / "small.py"
    script.write_text(
        '# %% [markdown]\n# # Small\n#\n# Text.\n\n# %%\nfigure.savefig(figures / "a.png")\n\n'
        '# %% [markdown]\n# ![Two lines\n# that cross](a.png "Both.")\n'
    )
    (tmp_path / "small.json").write_text(json.dumps({"seconds": 1, "outputs": ["figure written\n"]}))
    for file in ("a.png", "a_dark.png"):
        (tmp_path / file).write_bytes(b"")
    (tmp_path / "site").mkdir()
    entry = gallery.page(script, tmp_path, tmp_path / "site")
    assert (entry["figure"], entry["alt"]) == ("a.png", "Two lines that cross")
    assert {file.name for file in (tmp_path / "site").glob("*.png")} == {"a.png", "a_dark.png"}
    assert '\n```\n\n![Two lines\nthat cross](a.png "Both.")\n' in (tmp_path / "site" / "small.md").read_text()


def test_the_citation_has_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert version == flmm.__version__
    assert np.char.count((ROOT / "CITATION.cff").read_text(), "doi:") == 2
