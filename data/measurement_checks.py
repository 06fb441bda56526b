"""What the tables cannot say: checks that need two entries of a file at once."""

from __future__ import annotations

import numpy as np

from data.hdf5 import get_object
from data.inspector import Inspector
from data.measurement import Array, GridSpec
from data.measurement_mri import check_geometry
from data.measurement_parts import MeasurementParts
from data.schema import SPEED_OF_LIGHT


def check_modality(inspector: Inspector, parts: MeasurementParts) -> None:
    """Run the checks of the file's modality; convert the sense of rotation."""
    assert parts.modality is not None
    {"mimo_radar": _mimo_radar, "tomography": _tomography, "mri": check_geometry, "irs_mimo": _irs_mimo}[
        parts.modality.name
    ](inspector, parts)


def check_noise_and_mask(inspector: Inspector, parts: MeasurementParts) -> None:
    """A standard deviation is not negative, and a mask leaves something; arrays only where samples are read."""
    if parts.noise_std is not None and (parts.noise_std.values < 0).any():
        inspector.error(
            "BC505",
            "/measurement/noise_std",
            expected="standard deviations >= 0",
            found=f"{float(parts.noise_std.values.min()):g}",
            fix="write the standard deviation of a sample's noise, or leave it out to have it estimated",
        )
    if parts.mask is not None and not parts.mask.values.any():
        inspector.error(
            "BC505",
            "/measurement/mask",
            expected="1 where a sample was measured",
            found="only zeros",
            fix="write 1 there, or leave the mask out when all samples count",
        )


# -- radar ----------------------------------------------------------------------------------------


def _mimo_radar(inspector: Inspector, parts: MeasurementParts) -> None:
    parts.acquisition.setdefault("propagation_speed", SPEED_OF_LIGHT)  # the default of the format
    for side in ("tx", "rx"):
        positions = parts.geometry.get(f"{side}_positions")
        if positions is None:
            continue
        if parts.grid is not None:
            _outside_grid(inspector, positions, parts.grid, f"/geometry/{side}_positions")
        index = parts.geometry.get(f"channel_{side}")
        if index is not None:
            _in_range(inspector, index, positions.shape[-2], f"/geometry/channel_{side}", f"{side}_positions")


def _outside_grid(inspector: Inspector, positions: Array, grid: GridSpec, path: str) -> None:
    """No antenna between the outermost voxel faces: the field there is not what the model says."""
    origin, spacing, shape = (np.array(v, float)[::-1] for v in (grid.origin_m, grid.spacing_m, grid.shape))
    lower, upper = origin - spacing / 2, origin + spacing * (shape - 0.5)
    inside = ((positions >= lower) & (positions <= upper)).all(axis=-1)
    if inside.any():
        first = np.argwhere(inside)[0]
        x, y, z = positions[tuple(first)]
        inspector.error(
            "BC504",
            path,
            expected="antennas outside the voxel grid of /grid",
            found=f"{int(inside.sum())} inside, the first at index {int(first[-1])}: ({x:g}, {y:g}, {z:g}) m",
            fix="move the grid away from the array, or check units and columns (x, y, z) of the positions",
        )


def _in_range(inspector: Inspector, index: Array, n: int, path: str, what: str) -> None:
    bad = (index < 0) | (index >= n)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        one_based = index.min() >= 1 and index.max() == n
        inspector.error(
            "BC506",
            path,
            expected=f"indices from 0 to {n - 1} into /geometry/{what}",
            found=f"{int(index[first])} at channel {first}",
            fix="count from 0, not from 1" if one_based else "check the channel table",
        )


# -- tomography -----------------------------------------------------------------------------------


def _tomography(inspector: Inspector, parts: MeasurementParts) -> None:
    kind = parts.geometry.get("type")
    if kind in ("fan", "cone"):
        for name in ("source_to_origin", "origin_to_detector"):
            _needed(inspector, parts, "geometry", name, f"the distance in 'm' that type={kind!r} needs")
    if kind == "vectors":
        _needed(inspector, parts, "geometry", "vectors", "(projection, 12) in 'm' that type='vectors' needs")
    elif kind is not None:
        _needed(inspector, parts, "acquisition", "angle", "(projection,) in 'deg' or 'rad'")
    key = parts.acquisition.get("image_key")
    if key is not None and not np.isin(key, (0, 1, 2, 3)).all():
        inspector.error(
            "BC505",
            "/acquisition/image_key",
            expected="0 projection, 1 flat, 2 dark or 3 invalid",
            found=str(int(key.max())),
            fix="write the NXtomo values",
        )
    if parts.quantity == "counts":
        _flat_and_dark(inspector, key)
    if parts.acquisition.get("sense") == "cw_from_+z":
        parts.acquisition["sense"] = "ccw_from_+z"
        if "angle" in parts.acquisition:
            parts.acquisition["angle"] = -parts.acquisition["angle"]


def _flat_and_dark(inspector: Inspector, key: Array | None) -> None:
    """Each of the two fields is in /calibration or among the frames that image_key marks."""
    for name, value in (("flat", 1), ("dark", 2)):
        present = True  # a link that leads nowhere is a finding of its own
        with inspector.collecting():
            present = get_object(inspector.file, f"/calibration/{name}") is not None
        if present or (key is not None and (key == value).any()):
            continue
        if name == "dark" and key is not None:
            inspector.warning(
                "BC903",
                "/acquisition/image_key",
                expected="dark frames (2), or /calibration/dark",
                found="none; the dark field is taken as zero",
                fix="write dark frames unless the detector counts photons",
            )
        else:
            inspector.error(
                "BC201",
                f"/calibration/{name}",
                expected=f"the {name} field that quantity='counts' needs",
                found="nothing",
                fix=f"write /calibration/{name}, or mark such frames in /acquisition/image_key",
            )


def _needed(inspector: Inspector, parts: MeasurementParts, group: str, name: str, expected: str) -> None:
    path = f"/{group}/{name}"
    if name in getattr(parts, group) or any(f.path.startswith(path) for f in inspector.findings):
        return
    inspector.error("BC201", path, expected=expected, found="nothing", fix=f"write {path}")


# -- MRI and IRS ----------------------------------------------------------------------------------


def _irs_mimo(inspector: Inspector, parts: MeasurementParts) -> None:
    _check_factors(inspector, parts)
    reflection = parts.acquisition.get("irs_reflection")
    if reflection is None:
        return
    modulus = np.abs(reflection)
    if modulus.max() > 1 + 1e-5:
        first = tuple(int(i) for i in np.argwhere(modulus > 1 + 1e-5)[0])
        inspector.error(
            "BC505",
            "/acquisition/irs_reflection",
            expected="a modulus of at most 1: the surface is passive",
            found=f"{float(modulus.max()):g}, the first above 1 at {first}",
            fix="scale the coefficients; power belongs into transmit_power",
        )


def _check_factors(inspector: Inspector, parts: MeasurementParts) -> None:
    """The rows of the factors are the samples of one frame and subcarrier: patterns, and pilots and receivers."""
    n = parts.sizes
    if not {"m_1", "m_2", "m_3", "config", "rx", "pilot"} <= set(n):
        return
    found = (n["m_1"], n["m_2"], n["m_3"])
    wanted = (n["config"], n["pilot"], n["rx"])
    if found not in (wanted, (n["config"], n["rx"], n["pilot"])):
        inspector.error(
            "BC304",
            "/dictionary/factor_1",
            expected=f"factors of {wanted[0]}, {wanted[1]} and {wanted[2]} rows, the data's configs, pilots and rx",
            found=f"{found[0]}, {found[1]} and {found[2]}, {found[0] * found[1] * found[2]} rows in all",
            fix="write the factors of A in the order patterns, pilots, receivers, or leave /dictionary out",
        )
