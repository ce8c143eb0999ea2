"""Flow factorized representation learning: probability flows in latent space that plug into your encoder and decoder."""

from importlib.metadata import PackageNotFoundError, version

from latentflow import metrics
from latentflow.constraint import HJConstraint
from latentflow.force import NegativeForce
from latentflow.objective import PathPrior, flow_kl
from latentflow.path import LatentPath
from latentflow.posterior import FlowPosterior
from latentflow.potential import Potential
from latentflow.preimage import FoldError
from latentflow.prior import DiffusionPrior
from latentflow.selector import GumbelSelector, categorical_kl
from latentflow.validate import validate_values

try:
    __version__ = version("latentflow")
except PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "DiffusionPrior",
    "FlowPosterior",
    "FoldError",
    "GumbelSelector",
    "HJConstraint",
    "LatentPath",
    "NegativeForce",
    "PathPrior",
    "Potential",
    "categorical_kl",
    "flow_kl",
    "metrics",
    "validate_values",
]
