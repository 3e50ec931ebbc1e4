"""An effect in two likelihoods: the guide's model, u given y inside it, has the density of y, u and the other data."""

import re
from pathlib import Path

import numpy as np
import pymc as pm
import pytensor
from as_written import AS_WRITTEN
from numpy.testing import assert_allclose
from scipy.special import expit
from scipy.stats import bernoulli, halfnorm, multivariate_normal, norm

PAGE = Path(__file__).parents[2] / "docs" / "pymc_component.md"
POINT = {"mean": 39.0, "sigma_a": 2.5, "sigma_e": 3.5, "level": 0.7, "slope": 0.4, "sigma_sire": 1.4, "v_herd": 2.0}


def models():
    """Run the two blocks of the page, without the sampling."""
    text = PAGE.read_text().partition("## An effect that a second likelihood shares")[2]
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[:2]
    names = {}
    code = "import numpy as np\nimport pymc as pm\nimport pm_fastlmm as flmm\n" + "".join(blocks)
    kept = [line for line in code.splitlines() if not re.match(r"\s*(idata = |slopes = |print\()", line)]
    exec(compile("\n".join(kept), PAGE.name, "exec"), names)
    return names


def test_both_models_have_the_joint_density():
    names = models()
    calves, A, rng = names["calves"], names["A"].to_numpy(), np.random.default_rng(0)
    y, alive, p = calves["weight"].to_numpy(), calves["alive"].to_numpy(), POINT
    logit = {name: norm(0, sd).logpdf(p[name]) for name, sd in (("level", 2), ("slope", 1))}

    def density(model, values, *outputs):
        inputs = [model[name] for name in values]
        at = {rv: model.rvs_to_values[rv] if rv in model.observed_RVs else rv for rv in model.basic_RVs}
        graphs = [sum(pm.logp(rv, value).sum() for rv, value in at.items()), *outputs]
        function = pytensor.function(inputs, graphs, mode=AS_WRITTEN, on_unused_input="ignore")
        return function(*values.values())

    shared = names["shared"]
    values = {name: np.float64(p[name]) for name in ("mean", "sigma_a", "sigma_e", "level", "slope")}
    noise = rng.normal(size=150)
    found, u = density(shared, values | {"noise": noise}, shared["animal"])
    lam = np.linalg.eigvalsh(A)
    part = lam * p["sigma_a"] ** 2 / (lam * p["sigma_a"] ** 2 + p["sigma_e"] ** 2)
    joint = norm(p["mean"] + u, p["sigma_e"]).logpdf(y).sum() + multivariate_normal(cov=p["sigma_a"] ** 2 * A).logpdf(u)
    joint += np.log(p["sigma_e"] * np.sqrt(part)).sum()  # |∂u/∂ε|
    joint += bernoulli(expit(p["level"] + p["slope"] * u)).logpmf(alive).sum() + sum(logit.values())
    joint += norm(40, 10).logpdf(p["mean"]) + halfnorm(scale=5).logpdf([p["sigma_a"], p["sigma_e"]]).sum()
    assert_allclose(found, joint, rtol=1e-9)

    by_sire = names["by_sire"]
    values = {name: np.float64(p[name]) for name in ("sigma_sire", "v_herd", "level", "slope")}
    eps = rng.normal(size=15)
    (found,) = density(by_sire, values | {"raw": eps, "v_e": np.float64(5.0)})
    effect = p["sigma_sire"] * eps[names["sire"]]
    V = p["v_herd"] * np.equal.outer(calves["herd"].to_numpy(), calves["herd"].to_numpy()) + 5.0 * np.eye(150)
    inverse, r = np.linalg.inv(V), y - effect
    weight = inverse.sum(0)
    quadratic = r @ inverse @ r - (weight @ r) ** 2 / weight.sum()
    joint = -0.5 * (149 * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + np.log(weight.sum()) + quadratic)
    joint += bernoulli(expit(p["level"] + p["slope"] * effect)).logpmf(alive).sum() + sum(logit.values())
    joint += norm.logpdf(eps).sum() + halfnorm(scale=5).logpdf(p["sigma_sire"])
    joint += halfnorm(scale=9).logpdf([p["v_herd"], 5.0]).sum()
    assert_allclose(found, joint, rtol=1e-9)
