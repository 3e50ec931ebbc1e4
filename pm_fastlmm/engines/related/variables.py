"""The random variables of centred effects: their draws, and their density in closed form."""

import math
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.random.basic import normal

from pm_fastlmm.engines.algebra import inverse_logdet, product
from pm_fastlmm.engines.random_variable import LMMRV
from pm_fastlmm.engines.related.roots import Root

_LOG_2PI = math.log(2 * math.pi)


class OneEffectRV(LMMRV):
    """u ~ N(0, σ²A), (q,), of one effect of each level."""

    name = "RelatedEffects"
    extended_signature = "[rng],[size],()->[rng],(q)"
    root: Root

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and σRz."""
        root = carried["root"]
        next_rng, z = normal(0.0, 1.0, size=(root.innovations,), rng=rng, return_next_rng=True)
        return next_rng, one_effect(root, z, *params)

    def logp(self, value: Any, *params: Any) -> Any:
        """Return -½[q log 2πσ² + log|A| + uᵀA⁻¹u/σ²]."""
        (sigma,) = params
        squares = self.root.squares(value[:, None])[0, 0] / sigma**2
        return -0.5 * (self.root.size * (_LOG_2PI + 2 * pt.log(sigma)) + self.root.logdet + squares)


class SeveralEffectsRV(LMMRV):
    """u with vec(uᵀ) ~ N(0, A ⊗ LLᵀ), (q, c), of c effects of each level."""

    _ndim_supp = 2
    name = "RelatedEffects"
    extended_signature = "[rng],[size],(c,c)->[rng],(q,c)"
    root: Root

    @classmethod
    def draw(cls, rng: Any, batch: Any, *params: Any, **carried: Any) -> tuple[Any, Any]:
        """Return the next generator and RzLᵀ."""
        root, (L,) = carried["root"], params
        next_rng, z = normal(0.0, 1.0, size=(root.innovations, L.shape[0]), rng=rng, return_next_rng=True)
        return next_rng, several_effects(root, z, L)

    def logp(self, value: Any, *params: Any) -> Any:
        """Return -½[q c log 2π + q log|LLᵀ| + c log|A| + tr((LLᵀ)⁻¹uᵀA⁻¹u)]."""
        (L,) = params
        c = L.shape[0]
        inverse, logdet = inverse_logdet(product(L, L.T))
        squares = (inverse * self.root.squares(value)).sum()
        return -0.5 * (self.root.size * (c * _LOG_2PI + logdet) + c * self.root.logdet + squares)


def one_effect(root: Root, z: Any, sigma: Any) -> Any:
    """Return σRz of white noise z (m,)."""
    return sigma * root.forward(z[:, None])[:, 0]


def several_effects(root: Root, z: Any, L: Any) -> Any:
    """Return RzLᵀ of white noise z (m, c)."""
    return product(root.forward(z), L.T)
