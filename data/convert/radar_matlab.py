"""Near-field MIMO scans in MATLAB files with EMData and MIMOArray, as published on IEEE DataPort.

Source: IEEE DataPort 10.21227/src2-0y50; fields as in the methods document NF 3.2: `EMData.Values` (receiver,
    transmitter, frequency), `MIMOArray.Transmitter.{X,Y,Z}`, `MIMOArray.Receiver.{X,Y,Z}`, `OperateFreq`. The synthetic
    sets of the same group say `EMData`, `TX`, `TY`, `TZ` and `OperatingFreq`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data.convert.matlab import read_mat
from data.convert.options import ConvertOptions
from data.errors import DataFormatError
from data.measurement import Array, Measurement, Scale

#: Antennas of a planar array differ along the range by less than this share of the aperture.
_PLANAR = 1e-3
#: Lower frequencies are no hertz.
_LEAST_HZ = 1e7


def has_layout(names: Mapping[str, object] | set[str]) -> bool:
    """Whether variables of these names are such a scan."""
    return {"EMData", "MIMOArray"} <= {name.partition(".")[0] for name in names}


def from_radar_matlab(source: Path, options: ConvertOptions) -> Measurement:
    """The scan as it is: no calibration, window or selection of frequencies; echoes as exp(-j 2 pi f tau).

    The coordinate that all antennas share is the range and becomes z; the other two, in their order, x and y: of arrays
    in the file's x-z plane, (x, y, z) is (X, Z, Y) of the file.
    """
    variables = read_mat(source, allow_links=options.allow_links)
    tx, rx = (_positions(source, variables, side) for side in ("Transmitter", "Receiver"))
    both = np.concatenate((tx, rx))
    spread = np.ptp(both, axis=0)
    down = int(np.argmin(spread))
    if spread[down] > _PLANAR * spread.max():
        raise DataFormatError(
            f"{source}: MIMOArray: expected antennas in a plane across X, Y or Z, found extents "
            f"{', '.join(f'{s:g}' for s in spread)} m; use a mapping file"
        )
    order = [i for i in range(3) if i != down] + [down]
    frequencies = np.ravel(_one_of(source, variables, "OperateFreq", "OperatingFreq")).astype(np.float64)
    if frequencies.min() < _LEAST_HZ:
        raise DataFormatError(
            f"{source}: OperateFreq: expected hertz, found {frequencies.min():g} to {frequencies.max():g}; use a "
            "mapping file with their unit"
        )
    values = _one_of(source, variables, "EMData.Values", "EMData")
    shape = (len(rx), len(tx), len(frequencies))
    if values.size != np.prod(shape) or np.squeeze(values).shape != tuple(n for n in shape if n > 1):
        raise DataFormatError(
            f"{source}: EMData: expected {shape} samples (receiver, transmitter, frequency), found {values.shape}"
        )
    data = values.reshape(shape).transpose(1, 0, 2)
    if not np.iscomplexobj(data):
        raise DataFormatError(f"{source}: EMData: expected complex samples, found {values.dtype}")
    if len(frequencies) > 1 and frequencies[0] > frequencies[-1]:
        frequencies, data = frequencies[::-1], data[..., ::-1]
    index = {name: Scale(values=np.arange(len(p), dtype=np.int32), units="1") for name, p in (("tx", tx), ("rx", rx))}
    return Measurement(
        modality="mimo_radar",
        data=np.ascontiguousarray(data[None], np.complex64),
        axes=("frame", "tx", "rx", "frequency"),
        scales={
            "frame": Scale(values=np.zeros(1), units="s"),
            **index,
            "frequency": Scale(values=frequencies, units="Hz"),
        },
        units="1",
        quantity="scattered_field",
        long_name="scattered field",
        geometry={
            "frame": f"x, y, z are {', '.join('XYZ'[i] for i in order)} of the source file; z into the scene",
            "coordinates": ["x", "y", "z"],
            "downrange_axis": "z",
            "tx_positions": tx[:, order],
            "rx_positions": rx[:, order],
        },
        acquisition={
            "waveform": "stepped_frequency",
            "phase_convention": "exp(-j*2*pi*f*tau)",
            "amplitude_model": "1/(4*pi*Rt*Rr)",
            "calibrated": False,
        },
        provenance={"program": "backcast convert (MATLAB, MIMO array)"},
        attrs={"title": source.name},
    )


def _one_of(source: Path, variables: Mapping[str, Array], *names: str) -> Array:
    for name in names:
        if name in variables:
            return variables[name]
    raise DataFormatError(f"{source}: expected {' or '.join(names)}, found {', '.join(variables) or 'no numbers'}")


def _positions(source: Path, variables: Mapping[str, Array], side: str) -> Array:
    """(n, 3) metres, columns X, Y, Z of the file."""
    prefix = f"MIMOArray.{side}"
    columns = [
        np.ravel(_one_of(source, variables, f"{prefix}.{axis}", f"{prefix}.T{axis}")).astype(np.float64)
        for axis in "XYZ"
    ]
    n = max(len(c) for c in columns)
    if any(len(c) not in (1, n) for c in columns):
        raise DataFormatError(f"{source}: {prefix}: expected as many X, Y and Z, found {[len(c) for c in columns]}")
    return np.stack([np.broadcast_to(c, n) for c in columns], axis=1)
