"""kanlib: Kolmogorov-Arnold networks with exact refinement and multilevel training."""

from kanlib.attention import Attention
from kanlib.derivatives import Jet, propagate
from kanlib.knots import KnotGrid
from kanlib.layers import SplineLayer
from kanlib.multilevel import Schedule, train_multilevel
from kanlib.networks import KAN, MLP
from kanlib.objectives import MeanSquaredError
from kanlib.residuals import ResidualLoss, Term
from kanlib.runs import Run
from kanlib.training import exponential_cycles, linear_ramp, train
from kanlib.transfer import prolongation

__version__ = "0.1.0"

__all__ = [
    "KAN",
    "MLP",
    "Attention",
    "Jet",
    "KnotGrid",
    "MeanSquaredError",
    "ResidualLoss",
    "Run",
    "Schedule",
    "SplineLayer",
    "Term",
    "exponential_cycles",
    "linear_ramp",
    "prolongation",
    "propagate",
    "train",
    "train_multilevel",
]
