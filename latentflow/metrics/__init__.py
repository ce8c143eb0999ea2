"""What is reported of a trained model: errors with their floor, likelihoods, evidence bounds, and scores of its codes."""

from latentflow.metrics.codes import DCI, dci, mutual_information_gap, sap_score
from latentflow.metrics.errors import black_error, equivariance_error, identity_error, latent_equivariance_error
from latentflow.metrics.evidence import (
    conditional_log_likelihood,
    evidence_bound,
    importance_weighted_bound,
    marginal_log_likelihood,
)
from latentflow.metrics.interventions import beta_vae_score, factor_vae_score, sample_codes
from latentflow.metrics.likelihoods import bernoulli_log_likelihood, gaussian_constant, gaussian_log_likelihood
from latentflow.metrics.variation import VariationPredictability, variation_predictability

__all__ = [
    "DCI",
    "VariationPredictability",
    "bernoulli_log_likelihood",
    "beta_vae_score",
    "black_error",
    "conditional_log_likelihood",
    "dci",
    "equivariance_error",
    "evidence_bound",
    "factor_vae_score",
    "gaussian_constant",
    "gaussian_log_likelihood",
    "identity_error",
    "importance_weighted_bound",
    "latent_equivariance_error",
    "marginal_log_likelihood",
    "mutual_information_gap",
    "sample_codes",
    "sap_score",
    "variation_predictability",
]
