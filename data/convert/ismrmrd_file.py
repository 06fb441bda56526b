"""ISMRMRD files, read by the ismrmrd package (extra mri)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from data.convert.mri_parts import build, per_metre
from data.convert.opening import open_foreign
from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.hdf5 import short
from data.measurement import Array, Measurement

#: A raster of which fewer than one in so many samples was measured is a damaged header, unless it is small.
_MOST_ZEROS, _SMALL = 1000, 2**20
#: What is no imaging data; noise scans are used on their own.
_SKIPPED = (
    "ACQ_IS_NAVIGATION_DATA",
    "ACQ_IS_PHASECORR_DATA",
    "ACQ_IS_HPFEEDBACK_DATA",
    "ACQ_IS_DUMMYSCAN_DATA",
    "ACQ_IS_RTFEEDBACK_DATA",
    "ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA",
    "ACQ_IS_PARALLEL_CALIBRATION",
)


def from_ismrmrd(source: Path, options: ConvertOptions) -> Measurement:
    """All imaging readouts of the first encoding; phases, or repetitions, become frames.

    Cartesian readouts go to their place by the encoding counters; averages are averaged. Noise scans give the noise
    covariance. Trajectories need --trajectory-unit: the standard leaves it open.
    """
    try:
        import ismrmrd
    except ImportError as error:
        raise DataFormatError(f"{source}: ISMRMRD needs a package: pip install 'backcast[mri]'") from error
    with open_foreign(source, allow_links=options.allow_links):
        pass  # the library looks neither for links nor for damage
    try:
        dataset = ismrmrd.Dataset(str(source), options.key or "dataset", create_if_needed=False)
        text = dataset.read_xml_header()
        text = text.decode("utf-8") if isinstance(text, bytes) else str(text)
        header = ismrmrd.xsd.CreateFromDocument(text)
        acquisitions = [dataset.read_acquisition(i) for i in range(dataset.number_of_acquisitions())]
        dataset.close()
    except Exception as error:  # it answers damage with whatever a wrong byte leads to
        raise DataFormatError(
            f"{source}: expected an ISMRMRD file, found one that cannot be read ({short(error)})"
        ) from error
    noise = [a.data for a in acquisitions if a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    skipped = [getattr(ismrmrd, name) for name in _SKIPPED]
    kept = [
        a
        for a in acquisitions
        if not a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        and not any(a.is_flag_set(flag) for flag in skipped)
        and a.encoding_space_ref == 0
    ]
    if not kept or not header.encoding:
        raise DataFormatError(f"{source}: expected imaging readouts and an encoding, found {len(kept)} readouts")
    encoding = header.encoding[0]
    fov, matrix = _spaces(encoding, len({a.idx.slice for a in kept}))
    covariance = None
    if noise:
        samples = np.concatenate(noise, axis=1)
        covariance = samples @ samples.conj().T / samples.shape[1]
    common: dict[str, Any] = {
        "program": "ISMRMRD",
        "centered": True,
        "sign": -1,
        "field_of_view_m": options.field_of_view_m or fov,
        "matrix": options.matrix or matrix,
        "noise_covariance": covariance,
        "frame_interval_s": options.frame_interval_s,
        "acquisition": {"ismrmrd_header": text},
    }
    if str(getattr(encoding.trajectory, "value", encoding.trajectory)).lower() == "cartesian":
        data, measured = _cartesian(source, encoding, kept)
        axes = ("frame", "slice", "coil", "kz", "ky", "kx")
        # the format's mask has no slices
        mask = None if measured.all() else (measured.max(axis=1), ("frame", "kz", "ky", "kx"))
        return build(source, data, axes, mask=mask, **common)
    data, points = _readouts(source, kept)
    order = ["kz", "ky", "kx"][3 - points.shape[-1] :]
    filled = ConvertOptions(
        field_of_view_m=options.field_of_view_m or fov,
        matrix=options.matrix or matrix,
        trajectory_unit=options.trajectory_unit,
    )
    trajectory = per_metre(source, points, options.trajectory_unit, order, filled, usual=None)
    return build(source, data, ("frame", "coil", "readout", "sample"), trajectory=trajectory, order=order, **common)


def _spaces(encoding: Any, n_slices: int) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Field of view of all samples and voxels of the image, z, y, x; slices are stacked along z."""
    space, recon = encoding.encodedSpace, encoding.reconSpace
    fov = space.fieldOfView_mm
    stacked = n_slices if space.matrixSize.z == 1 else 1
    return (
        (float(fov.z) * 1e-3 * stacked, float(fov.y) * 1e-3, float(fov.x) * 1e-3),
        (int(recon.matrixSize.z) * stacked, int(recon.matrixSize.y), int(recon.matrixSize.x)),
    )


def _frame(acquisitions: list[Any]) -> str:
    """The counter that tells frames apart."""
    return "phase" if len({a.idx.phase for a in acquisitions}) > 1 else "repetition"


def _cartesian(source: Path, encoding: Any, acquisitions: list[Any]) -> tuple[Array, Array]:
    """(frame, slice, coil, kz, ky, kx), and which of (frame, slice, kz, ky, kx) were measured."""
    size = encoding.encodedSpace.matrixSize
    counter = _frame(acquisitions)
    frames = 1 + max(getattr(a.idx, counter) for a in acquisitions)
    slices = sorted({a.idx.slice for a in acquisitions})
    coils = acquisitions[0].data.shape[0]
    shape = (frames, len(slices), coils, int(size.z), int(size.y), int(size.x))
    measured = sum(a.data.size for a in acquisitions)
    if math.prod(shape) > _MOST_ZEROS * measured + _SMALL:
        raise DataFormatError(
            f"{source}: expected counters and a matrix that the readouts fill, found {' x '.join(map(str, shape))} for "
            f"{measured} samples"
        )
    data = np.zeros(shape, np.complex64)
    count = np.zeros((frames, len(slices), *shape[3:]), np.float32)
    limits = encoding.encodingLimits
    shift = [
        n // 2 - (limit.center if limit is not None else n // 2)
        for n, limit in ((size.y, limits.kspace_encoding_step_1), (size.z, limits.kspace_encoding_step_2))
    ]
    for a in acquisitions:
        ky, kz = a.idx.kspace_encode_step_1 + shift[0], a.idx.kspace_encode_step_2 + shift[1]
        first = int(size.x) // 2 - a.center_sample
        at = slice(max(first, 0), min(first + a.number_of_samples, int(size.x)))
        if a.data.shape[0] != coils or not (0 <= ky < size.y and 0 <= kz < size.z) or at.start >= at.stop:
            raise DataFormatError(
                f"{source}: expected readouts of {coils} coils within the encoded {size.x} x {size.y} x {size.z} "
                f"samples, found {a.data.shape[0]} coils at ky {ky}, kz {kz}, samples from {first}"
            )
        values = a.data[:, at.start - first : at.stop - first]
        if a.is_flag_set(_reverse_flag()):
            values = values[:, ::-1]
        place = (getattr(a.idx, counter), slices.index(a.idx.slice))
        data[place][:, kz, ky, at] += values
        count[place][kz, ky, at] += 1
    data /= np.maximum(count, 1)[:, :, None]
    return data, (count > 0).astype(np.uint8)


def _reverse_flag() -> int:
    import ismrmrd

    return int(ismrmrd.ACQ_IS_REVERSE)


def _readouts(source: Path, acquisitions: list[Any]) -> tuple[Array, Array]:
    """(frame, coil, readout, sample) and ((frame,) readout, sample, D) in the file's units, columns z, y, x."""
    counter = _frame(acquisitions)
    frames: dict[int, list[Any]] = {}
    for a in acquisitions:
        frames.setdefault(getattr(a.idx, counter), []).append(a)
    shapes = {(*a.data.shape, a.traj.shape[-1]) for a in acquisitions}
    counts = {len(f) for f in frames.values()}
    if len(shapes) != 1 or len(counts) != 1 or next(iter(shapes))[-1] not in (2, 3):
        raise DataFormatError(
            f"{source}: expected readouts of equal coils, samples and 2 or 3 trajectory columns, as many in every "
            f"frame, found (coils, samples, columns) {sorted(shapes)} and {sorted(counts)} readouts"
        )
    data = np.stack([np.stack([a.data for a in frames[f]], axis=1) for f in sorted(frames)])
    points = np.stack([np.stack([a.traj for a in frames[f]]) for f in sorted(frames)])[..., ::-1]
    return data, points[0] if bool((points == points[:1]).all()) else points
