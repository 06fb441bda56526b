"""Solvers: generators of frozen states, and what drives, saves and measures them."""

from imaging.solvers.admm import AdmmState, admm
from imaging.solvers.csalsa import CsalsaState, ProjectedState, csalsa, csalsa_projected, starting_image
from imaging.solvers.linear import CgEllipsoid, CgInfo, CgSolver, EllipsoidInfo, SolverCache, cg, secular_root
from imaging.solvers.low_rank_sparse import LowRankSparseState, low_rank_sparse
from imaging.solvers.partially_separable import PsmState, RedPsmState, psm, red_psm, spline_basis
from imaging.solvers.primal_dual import PrimalDualState, tv_primal_dual
from imaging.solvers.protocols import EllipsoidProjector, RegularisedSolver
from imaging.solvers.run import (
    BatchRun,
    KeepBest,
    Outcome,
    SolverDivergedError,
    any_rule,
    batch_steps,
    drain,
    never,
    relative_change_below,
    residuals_below,
    run,
    run_batch,
)
from imaging.solvers.state import State, StateFileError, load_state, save_state

__all__ = [
    "AdmmState",
    "BatchRun",
    "CgEllipsoid",
    "CgInfo",
    "CgSolver",
    "CsalsaState",
    "EllipsoidInfo",
    "EllipsoidProjector",
    "KeepBest",
    "LowRankSparseState",
    "Outcome",
    "PrimalDualState",
    "ProjectedState",
    "PsmState",
    "RedPsmState",
    "RegularisedSolver",
    "SolverCache",
    "SolverDivergedError",
    "State",
    "StateFileError",
    "admm",
    "any_rule",
    "batch_steps",
    "cg",
    "csalsa",
    "csalsa_projected",
    "drain",
    "load_state",
    "low_rank_sparse",
    "never",
    "psm",
    "red_psm",
    "relative_change_below",
    "residuals_below",
    "run",
    "run_batch",
    "save_state",
    "secular_root",
    "spline_basis",
    "starting_image",
    "tv_primal_dual",
]
