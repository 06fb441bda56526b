"""Bring your own raster scan: a foam panel with a square insert, 22.2 to 26.2 GHz, as a measurement file.

    python examples/puf_foam_scan.py puf_planar_22-26GHz.npz foam.h5
    backcast reconstruct foam.h5 -m rangemigration -o volumes/

The script only writes down what was measured. What has to be done to the samples, subtracting the mean over the
scan and removing the system's delay, stands in /calibration and is done by whoever reads the file.
Data: M. Chizh et al., PIERS-Toyama 2018, doi 10.23919/PIERS.2018.8598093.
"""

import datetime
import sys
import uuid

import h5py
import numpy as np


def put(group, name, values, units, **attrs):
    """A dataset never goes without its unit."""
    group[name] = values
    group[name].attrs.update(units=units, **attrs)


def main(source, target):
    scan = np.load(source)
    q, i = scan["iq_counts"].astype("f4")  # (frequency, x, y) each
    echo = i - 1j * q  # with this sign a point echo at range R goes as exp(-2jkR)
    n_freq, nx, ny = echo.shape
    dx, dy = scan["step_m"]
    x, y = (np.arange(nx) - (nx - 1) / 2) * dx, (np.arange(ny) - (ny - 1) / 2) * dy
    places = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros((nx, ny))], axis=-1).reshape(-1, 3)

    with h5py.File(target, "w") as f:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        f.attrs.update(format="backcast-measurement", format_version="1.0", modality="mimo_radar", file_time=now)
        f.attrs.update(creator="puf_foam_scan.py", creator_version="1", uuid=str(uuid.uuid4()))
        f.attrs.update(title="foam panel with a square insert", doi="10.23919/PIERS.2018.8598093")

        m = f.create_group("measurement")
        m.attrs.update(signal="data", axes=["frame", "channel", "frequency"])
        put(m, "data", echo.reshape(1, n_freq, -1).transpose(0, 2, 1).astype("c8"), "1", quantity="scattered_field")
        put(m, "frame", [0.0], "s")
        put(m, "channel", np.arange(nx * ny, dtype="i4"), "1")
        put(m, "frequency", scan["freq_hz"], "Hz")

        g = f.create_group("geometry")
        g.attrs.update(frame="right-handed, scan plane z = 0, z into the panel", downrange_axis="z")
        g.attrs["coordinates"] = ["x", "y", "z"]
        for antenna in ("tx", "rx"):  # one antenna sends and receives
            put(g, f"{antenna}_positions", places, "m")
            put(g, f"channel_{antenna}", np.arange(nx * ny, dtype="i4"), "1")

        a = f.create_group("acquisition")
        a.attrs.update(waveform="stepped_frequency", phase_convention="exp(-j*2*pi*f*tau)")
        a.attrs.update(amplitude_model="none", calibrated=False)
        put(a, "propagation_speed", 299_792_458.0, "m/s")

        c = f.create_group("calibration")
        c.attrs["mean_over"] = "channel"  # the background: leakage and DC offset, the same everywhere
        put(c, "phase", scan["phase_cal_rad"], "rad", axes=["frequency"])  # to add: delay of cables, electronics

        grid = f.create_group("grid")  # suggested, order z, y, x: every voxel lies below a scan point
        put(grid, "origin", [0.050, y[0], x[0]], "m")
        put(grid, "spacing", [0.005, dy, dx], "m")
        grid["shape"] = np.array([19, ny, nx], dtype="i4")


if __name__ == "__main__":
    main(*sys.argv[1:3])
