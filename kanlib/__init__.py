"""kanlib: Kolmogorov-Arnold networks with exact refinement and multilevel training."""

from kanlib.adaptive import refine_adaptively
from kanlib.attention import Attention
from kanlib.derivatives import Jet, propagate
from kanlib.ensembles import Ensemble
from kanlib.gauss_newton import GaussNewton
from kanlib.kernels import backend
from kanlib.knots import KnotGrid
from kanlib.layers import SplineLayer
from kanlib.multilevel import Schedule, train_multilevel
from kanlib.networks import KAN, MLP
from kanlib.objectives import MeanSquaredError
from kanlib.optimizers import lbfgs, paper_lbfgs
from kanlib.residuals import ResidualLoss, Term
from kanlib.runs import EndOfLevel, Run, State, Stop
from kanlib.samplers import Sampler
from kanlib.schedulers import exponential_cycles, linear_ramp
from kanlib.training import train
from kanlib.transfer import prolongation

__version__ = "0.1.0"

__all__ = [
    "KAN",
    "MLP",
    "Attention",
    "EndOfLevel",
    "Ensemble",
    "GaussNewton",
    "Jet",
    "KnotGrid",
    "MeanSquaredError",
    "ResidualLoss",
    "Run",
    "Sampler",
    "Schedule",
    "SplineLayer",
    "State",
    "Stop",
    "Term",
    "backend",
    "exponential_cycles",
    "lbfgs",
    "linear_ramp",
    "paper_lbfgs",
    "prolongation",
    "propagate",
    "refine_adaptively",
    "train",
    "train_multilevel",
]
