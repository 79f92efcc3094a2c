"""kanlib: Kolmogorov-Arnold networks with exact refinement and multilevel training."""

from kanlib.kernels.operator import backend
from kanlib.nn.ensemble import Ensemble
from kanlib.nn.hard_conditions import HardConditions
from kanlib.nn.jets import Jet, propagate
from kanlib.nn.networks import KAN, MLP
from kanlib.nn.spline_layer import SplineLayer
from kanlib.objectives.attention import Attention
from kanlib.objectives.causal import Causal
from kanlib.objectives.interfaces import Interface
from kanlib.objectives.mean_squared_error import MeanSquaredError
from kanlib.objectives.residuals import ResidualLoss, Term
from kanlib.objectives.samplers import Sampler
from kanlib.objectives.unknowns import Unknowns
from kanlib.splines.knots import KnotGrid
from kanlib.splines.prolongation import prolongation
from kanlib.training.adaptive import refine_adaptively
from kanlib.training.additive import Additive
from kanlib.training.balance import Balance
from kanlib.training.cycles import Cycle
from kanlib.training.gauss_newton import GaussNewton
from kanlib.training.multilevel import train_multilevel
from kanlib.training.optimizers import lbfgs, paper_lbfgs
from kanlib.training.quasi_newton import QuasiNewton
from kanlib.training.race import race
from kanlib.training.runs import EndOfLevel, Run, State, Stop
from kanlib.training.schedule import Schedule
from kanlib.training.schedulers import exponential_cycles, linear_ramp
from kanlib.training.slabs import TimeSlabs, train_slabs
from kanlib.training.stagnation import Stagnation
from kanlib.training.trainer import train

__version__ = "0.2.0"

__all__ = [
    "KAN",
    "MLP",
    "Additive",
    "Attention",
    "Balance",
    "Causal",
    "Cycle",
    "EndOfLevel",
    "Ensemble",
    "GaussNewton",
    "HardConditions",
    "Interface",
    "Jet",
    "KnotGrid",
    "MeanSquaredError",
    "QuasiNewton",
    "ResidualLoss",
    "Run",
    "Sampler",
    "Schedule",
    "SplineLayer",
    "Stagnation",
    "State",
    "Stop",
    "Term",
    "TimeSlabs",
    "Unknowns",
    "backend",
    "exponential_cycles",
    "lbfgs",
    "linear_ramp",
    "paper_lbfgs",
    "prolongation",
    "propagate",
    "race",
    "refine_adaptively",
    "train",
    "train_multilevel",
    "train_slabs",
]
