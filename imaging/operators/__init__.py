"""Operators: measurement models as linear maps with exact adjoints."""

from imaging.operators.base import LinearOperator
from imaging.operators.cartesian_mri import CartesianMri
from imaging.operators.checks import check_adjoint
from imaging.operators.grid import Grid
from imaging.operators.kronecker import Kronecker
from imaging.operators.near_field import NearFieldMimo
from imaging.operators.noncartesian_mri import NonCartesianMri, density_compensation
from imaging.operators.planar_scan import PlanarScan, near_field_operator
from imaging.operators.tomography import ConeBeam, FanBeam, ParallelBeam, TimeSequential
from imaging.operators.weighted import Weighted

__all__ = [
    "CartesianMri",
    "ConeBeam",
    "FanBeam",
    "Grid",
    "Kronecker",
    "LinearOperator",
    "NearFieldMimo",
    "NonCartesianMri",
    "ParallelBeam",
    "PlanarScan",
    "TimeSequential",
    "Weighted",
    "check_adjoint",
    "density_compensation",
    "near_field_operator",
]
