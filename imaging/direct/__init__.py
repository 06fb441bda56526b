"""Direct methods: one pass over the data, no iteration."""

from imaging.direct.backprojection import backprojection
from imaging.direct.fbp_frames import fbp_frames
from imaging.direct.feldkamp import fdk
from imaging.direct.filtered_backprojection import fbp
from imaging.direct.kirchhoff import kirchhoff
from imaging.direct.ramp_filter import EXTENSIONS, WINDOWS, filter_rows, ramp_filter
from imaging.direct.range_migration import range_migration
from imaging.direct.view_weights import Coverage, fan_redundancy, offset_detector_shares, view_weights

__all__ = [
    "EXTENSIONS",
    "WINDOWS",
    "Coverage",
    "backprojection",
    "fan_redundancy",
    "fbp",
    "fbp_frames",
    "fdk",
    "filter_rows",
    "kirchhoff",
    "offset_detector_shares",
    "ramp_filter",
    "range_migration",
    "view_weights",
]
