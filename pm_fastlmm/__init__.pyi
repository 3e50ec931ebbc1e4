"""The public names, for type checkers and for `__init__.py`, which imports each when it is first used."""

from . import covariance as covariance
from . import datasets as datasets
from . import io as io
from . import plots as plots
from . import priors as priors
from . import results as results
from .covariance.terms import Term as Term
from .engines.dense.denselmm import DenseLMM as DenseLMM
from .engines.fourier.basis import FourierBasis as FourierBasis
from .engines.fourier.fourierlmm import FourierLMM as FourierLMM
from .engines.fourier.statistics import FourierStatistics as FourierStatistics
from .engines.latent.latentlmm import LatentLMM as LatentLMM
from .engines.latent.user_family import CustomFamily as CustomFamily
from .engines.lengthscale.lengthscalelmm import LengthscaleLMM as LengthscaleLMM
from .engines.lengthscale.spectrum import LengthscaleSpectrum as LengthscaleSpectrum
from .engines.matrix.matrixlmm import MatrixLMM as MatrixLMM
from .engines.nodes import lmm_nodes as lmm_nodes
from .engines.related.relatedeffects import RelatedEffects as RelatedEffects
from .engines.spectral.fastlmm import FastLMM as FastLMM
from .engines.structured.statistics import TermStatistics as TermStatistics
from .engines.structured.structuredlmm import StructuredLMM as StructuredLMM
from .fitting.compare import compare_fits as compare_fits
from .fitting.find import find_reml as find_reml
from .fitting.find import reml_covariance as reml_covariance
from .fitting.traits import reml_traits as reml_traits
from .kernel.exact.exact import exact_posterior as exact_posterior
from .kernel.exact.sensitivity import rope as rope
from .kernel.likelihood.information import log_likelihood as log_likelihood
from .kernel.reml.batches import reml_blocks as reml_blocks
from .kernel.reml.inflation import genomic_inflation as genomic_inflation
from .kernel.reml.reml import reml as reml
from .kernel.reml.reml import reml_point as reml_point
from .kernel.reml.scan import scan as scan
from .kernel.reml.scan_traits import scan_traits as scan_traits
from .models.design import Design as Design
from .models.genome_scan import genome_scan as genome_scan
from .models.kernel_model import kernel_model as kernel_model
from .models.lmm_model import lmm_model as lmm_model
from .models.mixed_design import MixedDesign as MixedDesign
from .models.traits_model import traits_model as traits_model
from .posterior.heritability import heritability as heritability
from .posterior.pointwise import pointwise_log_likelihood as pointwise_log_likelihood
from .posterior.predict import posterior_function as posterior_function
from .posterior.predict import predict as predict
from .posterior.predict import recover_effects as recover_effects
from .posterior.predict import variances as variances
from .posterior.sample import sample as sample
from .spectrum.spectrum import Spectrum as Spectrum
from .spectrum.streams.statistics import KernelStatistics as KernelStatistics

__all__ = [
    "CustomFamily",
    "DenseLMM",
    "Design",
    "FastLMM",
    "FourierBasis",
    "FourierLMM",
    "FourierStatistics",
    "KernelStatistics",
    "LatentLMM",
    "LengthscaleLMM",
    "LengthscaleSpectrum",
    "MatrixLMM",
    "MixedDesign",
    "RelatedEffects",
    "Spectrum",
    "StructuredLMM",
    "Term",
    "TermStatistics",
    "compare_fits",
    "covariance",
    "datasets",
    "exact_posterior",
    "find_reml",
    "genome_scan",
    "genomic_inflation",
    "heritability",
    "io",
    "kernel_model",
    "lmm_model",
    "lmm_nodes",
    "log_likelihood",
    "plots",
    "pointwise_log_likelihood",
    "posterior_function",
    "predict",
    "priors",
    "recover_effects",
    "reml",
    "reml_blocks",
    "reml_covariance",
    "reml_point",
    "reml_traits",
    "results",
    "rope",
    "sample",
    "scan",
    "scan_traits",
    "traits_model",
    "variances",
]
