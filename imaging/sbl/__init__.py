"""Sparse Bayesian learning: posterior means with standard deviations, for Kronecker-structured and general problems."""

from imaging.sbl.estimate import METHODS, estimate
from imaging.sbl.kronecker import am_krosbl, em, ksbl, mm_krosbl, pc_krosbl, svd_krosbl
from imaging.sbl.posterior import Posterior, e_step
from imaging.sbl.state import KroneckerSblState, SblState, evidence_change_below, gamma_change_below

__all__ = [
    "METHODS",
    "KroneckerSblState",
    "Posterior",
    "SblState",
    "am_krosbl",
    "e_step",
    "em",
    "estimate",
    "evidence_change_below",
    "gamma_change_below",
    "ksbl",
    "mm_krosbl",
    "pc_krosbl",
    "svd_krosbl",
]
