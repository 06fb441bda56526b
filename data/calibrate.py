"""Applying what /calibration says, in the order of the format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.errors import DataFormatError
from data.measurement import Array, Measurement, NamedArray, Scale, broadcast_by_name
from data.schema import SPEED_OF_LIGHT


def apply_calibration(m: Measurement) -> Measurement:
    """`m` with its calibration in the data and in `applied_calibration`; steps already there are skipped.

    In this order: dark and flat field (counts) or background, gain, phase, range offset:

        data <- (data - dark) / (flat - dark)                     tomography, quantity "counts"
        data <- data - background         or  data - mean(data) over the axis `mean_over`
        data <- data * gain
        data <- data * exp(1j * phase)
        data <- data * exp(+1j * 2 k range_offset)                phase convention exp(-j*2*pi*f*tau)

    with k = 2 pi f / c. `range_offset` is the extra one-way range that the instrument shows: cables and
    antennas delay an echo at range R so that it appears at R + range_offset. With the convention
    exp(+j*2*pi*f*tau) the sign of its phase is the other one.

    Raises:
        DataFormatError: the calibration leaves no signal, or does not fit the data.
    """
    done = list(m.applied_calibration)
    if m.modality == "tomography" and m.quantity == "counts" and "dark and flat" not in done:
        m = _normalise_counts(m)
        done = list(m.applied_calibration)
    data, applied = m.data, []
    for step in ("background", "gain", "phase", "range_offset"):
        if step in done:
            continue
        changed = _apply(m, data, step)
        if changed is not None:
            data = changed
            applied.append(step)
    if not applied:
        return m
    if not np.isfinite(data).all():
        raise DataFormatError(
            f"/calibration/{applied[-1]}: expected finite samples after {', '.join(applied)}, found NaN or Inf; "
            "check the values in /calibration"
        )
    if not data.any():
        raise DataFormatError(
            f"/calibration/{applied[-1]}: expected a signal after {', '.join(applied)}, found only zeros; "
            "check /calibration (the mean over an axis of length 1 is the data themselves)"
        )
    noise, noise_axes = _scaled_noise(m) if "gain" in applied else (m.noise_std, m.noise_std_axes)
    return dataclasses.replace(
        m, data=data, applied_calibration=(*done, *applied), noise_std=noise, noise_std_axes=noise_axes
    )


def _scaled_noise(m: Measurement) -> tuple[Array | float | None, tuple[str, ...]]:
    """`noise_std` belongs to the samples as stored, so a gain changes it too."""
    if m.noise_std is None:
        return None, ()
    gain = np.abs(as_broadcast(m, m.calibration["gain"], "gain"))
    if (gain == gain.flat[0]).all():
        scaled = np.asarray(m.noise_std * float(gain.flat[0]))
        return (scaled if scaled.ndim else float(scaled)), m.noise_std_axes
    return np.asarray(m.broadcast(m.noise_std, m.noise_std_axes) * gain, np.float32), m.axes


def _apply(m: Measurement, data: Array, step: str) -> Array | None:
    values = m.calibration.get(step)
    if step == "background":
        axis = m.calibration.get("mean_over")
        if axis is not None:
            return np.asarray(data - _measured_mean(m, data, axis))
        return None if values is None else np.asarray(data - as_broadcast(m, values, step).astype(data.dtype))
    if values is None:
        return None
    if step == "gain":
        factor = as_broadcast(m, values, step)
    elif step == "phase":
        factor = np.exp(1j * as_broadcast(m, values, step))
    else:
        factor = _range_phase(m, as_broadcast(m, values, step))
    if np.iscomplexobj(factor) and data.dtype.kind != "c":
        raise DataFormatError(
            f"calibration {step}: expected complex samples, got {data.dtype}; a phase needs complex data"
        )
    return np.asarray(data * factor.astype(data.dtype))


def _measured_mean(m: Measurement, data: Array, axis: str) -> Array:
    """The mean over `axis` of the samples that the mask calls measured; 0 where none was."""
    i = m.axes.index(axis)
    # float64 sums: a mean over thousands of samples of a strong leak must not leave a floor.
    wide = np.complex128 if data.dtype.kind == "c" else np.float64
    if m.mask is None:
        return np.asarray(data.mean(axis=i, keepdims=True, dtype=wide)).astype(data.dtype)
    measured = np.broadcast_to(m.broadcast(m.mask, m.mask_axes) != 0, data.shape)
    total = data.sum(axis=i, keepdims=True, dtype=wide, where=measured)
    return np.asarray(total / np.maximum(measured.sum(axis=i, keepdims=True), 1)).astype(data.dtype)


def _range_phase(m: Measurement, offset_m: Array) -> Array:
    sign = 1 if m.acquisition["phase_convention"].startswith("exp(-") else -1
    k = 2 * np.pi * m.scale("frequency") / float(m.acquisition.get("propagation_speed", SPEED_OF_LIGHT))
    return np.exp(sign * 2j * m.broadcast(k, ("frequency",)) * offset_m)


def as_broadcast(m: Measurement, values: Any, step: str) -> Array:
    """A calibration value as an array that broadcasts against the data."""
    if isinstance(values, NamedArray):
        return m.broadcast(values.values, values.axes)
    array = np.asarray(values)
    if array.ndim and array.shape != m.data.shape:
        raise DataFormatError(
            f"calibration {step}: expected shape {m.data.shape} as the data, or a NamedArray with axes, "
            f"got {array.shape}"
        )
    return array


# -- counts ---------------------------------------------------------------------------------------


def _normalise_counts(m: Measurement) -> Measurement:
    """Counts to transmission; frames that image_key marks as flat, dark or invalid are taken out.

    `calibration` then holds the mean fields, flat and dark float64 (1, row, column), and `noise_std` is that of the
    transmission. Samples at the end of the integers' range are saturated and masked out.
    """
    key = m.acquisition.get("image_key")
    flat, dark = _field(m, "flat", key, 1), _field(m, "dark", key, 2)
    counts = m.data
    keep = np.ones(len(counts), bool) if key is None else np.asarray(key) == 0
    if not keep.any():
        raise DataFormatError(
            "calibration: expected projections (image_key 0), found none; check /acquisition/image_key"
        )
    span = flat - dark
    dead = span <= 0
    if dead.all():
        raise DataFormatError(
            "calibration: expected flat > dark, found no such pixel; check that /calibration/flat and dark "
            "are not exchanged"
        )
    counts = counts[keep]
    transmission = ((counts.astype(np.float64) - dark) / np.where(dead, 1.0, span)).astype(np.float32)
    warnings = list(m.warnings)
    bad = np.broadcast_to(dead, counts.shape)
    if dead.any():
        transmission[:, dead] = 1.0
        warnings.append(f"{int(dead.sum())} detector pixels with flat <= dark are masked out")
    if counts.dtype.kind == "u" and (full := counts == np.iinfo(counts.dtype).max).any():
        warnings.append(f"{int(full.sum())} saturated samples ({np.iinfo(counts.dtype).max} counts) are masked out")
        bad = bad | full
    mask, mask_axes = _without(m, bad, keep)
    noise, noise_axes = m.noise_std, m.noise_std_axes
    if noise is not None:  # it is in counts, as the samples are
        whole = np.asarray(m.broadcast(noise, noise_axes), np.float64)
        whole = whole[keep] if whole.shape[0] == len(keep) else whole
        noise, noise_axes = (whole / np.where(dead, 1.0, span)).astype(np.float32), m.axes
        if noise.shape[0] == 1:
            noise, noise_axes = noise[0], m.axes[1:]
    scales = dict(m.scales)
    old = scales["projection"]
    scales["projection"] = Scale(values=old.values[keep], units=old.units, long_name=old.long_name)
    return dataclasses.replace(
        m,
        data=transmission,
        quantity="transmission",
        scales=scales,
        mask=mask,
        mask_axes=mask_axes,
        noise_std=noise,
        noise_std_axes=noise_axes,
        calibration={**m.calibration, "flat": flat[None], "dark": dark[None]},
        geometry=_select(m.geometry, keep, ("vectors",)),
        acquisition=_select(m.acquisition, keep, ("angle", "time", "frame_index", "image_key")),
        applied_calibration=(*m.applied_calibration, "dark and flat"),
        warnings=tuple(warnings),
    )


def _field(m: Measurement, name: str, key: Array | None, value: int) -> Array:
    """The mean flat or dark field, float64 (row, column)."""
    frames = m.calibration.get(name)
    if frames is not None:
        return np.asarray(frames, np.float64).mean(axis=0)
    if key is not None and (np.asarray(key) == value).any():
        return np.asarray(m.data[np.asarray(key) == value], np.float64).mean(axis=0)
    if name == "dark":
        return np.zeros(m.data.shape[1:])  # a photon counter has none; reading has warned of it
    raise DataFormatError(
        "calibration: expected a flat field for quantity='counts', found none; write /calibration/flat"
    )


def _without(m: Measurement, bad: Array, keep: Array) -> tuple[Array | None, tuple[str, ...]]:
    """The mask of the kept projections, without the bad samples (projection, row, column)."""
    mask, axes = m.mask, m.mask_axes
    if mask is not None and "projection" in axes and mask.shape[axes.index("projection")] == len(keep):
        mask = mask.compress(keep, axis=axes.index("projection"))
    if not bad.any():
        return mask, axes
    good = ~bad
    if (good == good[:1]).all():
        good, own = good[0], m.axes[1:]
    else:
        own = m.axes
    if mask is None:
        return good.astype(np.uint8), own
    whole = broadcast_by_name(mask, axes, m.axes) * broadcast_by_name(good, own, m.axes)
    return np.broadcast_to(whole, bad.shape).astype(np.uint8), m.axes


def _select(values: Mapping[str, Any], keep: Array, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[keep] if name in names else value for name, value in values.items()}
