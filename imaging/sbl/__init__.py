"""Sparse Bayesian learning: posterior means with standard deviations, for Kronecker-structured and general problems.

`svd_mm_krosbl` with the rule `settled` and then `polish` is what the command line calls krosbl-mm, and the default.
"""

from imaging.sbl.classical import pcsbl, sbl
from imaging.sbl.combined import polish, settled, svd_mm_krosbl
from imaging.sbl.decomposed import (
    DecomposedState,
    NotRankOneError,
    check_rank_one,
    decompose,
    dsbl,
    rank_one_excess,
    rank_one_polish,
)
from imaging.sbl.estimate import METHODS, estimate
from imaging.sbl.greedy import GreedyState, komp, omp
from imaging.sbl.kronecker import am_krosbl, em, ksbl, mm_krosbl, pc_krosbl, svd_krosbl
from imaging.sbl.least_squares import least_squares, oracle_least_squares
from imaging.sbl.offgrid import Steering
from imaging.sbl.posterior import Posterior, e_step
from imaging.sbl.state import KroneckerSblState, SblState, evidence_change_below, gamma_change_below

__all__ = [
    "METHODS",
    "DecomposedState",
    "GreedyState",
    "KroneckerSblState",
    "NotRankOneError",
    "Posterior",
    "SblState",
    "Steering",
    "am_krosbl",
    "check_rank_one",
    "decompose",
    "dsbl",
    "e_step",
    "em",
    "estimate",
    "evidence_change_below",
    "gamma_change_below",
    "komp",
    "ksbl",
    "least_squares",
    "mm_krosbl",
    "omp",
    "oracle_least_squares",
    "pc_krosbl",
    "pcsbl",
    "polish",
    "rank_one_excess",
    "rank_one_polish",
    "sbl",
    "settled",
    "svd_krosbl",
    "svd_mm_krosbl",
]
