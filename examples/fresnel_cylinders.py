"""Bring your own bistatic set: two dielectric cylinders (Institut Fresnel 2005), as a measurement file.

    python examples/fresnel_cylinders.py fresnel_FoamDielExtTM.npz cylinders.h5
    backcast reconstruct cylinders.h5 -m backprojection -o volumes/

8 transmitters and 241 receivers for each, on a circle around the target: not every pair was measured, so the data
have a channel axis. The field with and without target go into the file as they are; the reader subtracts one from
the other. The plastic cylinder then stands out at its place. With a third argument, `phase`, the source's phase at
each frequency goes into the file too and is taken out: then the whole foam disc appears, and its strong forward
scattering, which no single-scattering model explains, moves the plastic's peak 6 mm outwards.
Data: J.-M. Geffrin, P. Sabouroux, C. Eyraud, Inverse Problems 21 (2005) S117-S130.
"""

import datetime
import sys
import uuid

import h5py
import numpy as np

SPEED_OF_LIGHT = 299_792_458.0
FACING = 120  # the receiver opposite the transmitter


def put(group, name, values, units, **attrs):
    """A dataset never goes without its unit."""
    group[name] = values
    group[name].attrs.update(units=units, **attrs)


def on_circle(angle_deg, radius_m):
    a = np.deg2rad(angle_deg)
    return np.stack([radius_m * np.cos(a), radius_m * np.sin(a), 0 * a], axis=-1)


def source_gain(incident, frequency, radius_m):
    """1 / phase of the source, (tx, frequency): the field at the facing receiver is the source's times exp(2jkR)."""
    direct = incident[:, FACING]
    return np.abs(direct) / direct * np.exp(2j * np.pi * frequency / SPEED_OF_LIGHT * 2 * radius_m)


def main(source, target, *options):
    scan = np.load(source)
    total, incident, frequency = scan["total"], scan["incident"], scan["freq_hz"]
    n_tx, n_rx, n_freq = total.shape
    radius = float(scan["radius_m"])
    rx_angles, channel_rx = np.unique(scan["rx_angle_deg"] % 360, return_inverse=True)

    with h5py.File(target, "w") as f:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        f.attrs.update(format="backcast-measurement", format_version="1.0", modality="mimo_radar", file_time=now)
        f.attrs.update(creator="fresnel_cylinders.py", creator_version="1", uuid=str(uuid.uuid4()))
        f.attrs.update(title="foam and plastic cylinder, TM", doi="10.1088/0266-5611/21/6/S09")

        m = f.create_group("measurement")
        axes = ["frame", "channel", "frequency"]
        m.attrs.update(signal="data", axes=axes)
        put(m, "data", total.reshape(1, -1, n_freq).astype("c8"), "1", quantity="scattered_field")
        put(m, "frame", [0.0], "s")
        put(m, "channel", np.arange(n_tx * n_rx, dtype="i4"), "1")
        put(m, "frequency", frequency, "Hz")

        g = f.create_group("geometry")
        g.attrs.update(frame="antennas around the target in the plane z = 0", downrange_axis="x")
        g.attrs["coordinates"] = ["x", "y", "z"]
        put(g, "tx_positions", on_circle(scan["tx_angle_deg"], radius), "m")
        put(g, "rx_positions", on_circle(rx_angles, radius), "m")
        put(g, "channel_tx", np.repeat(np.arange(n_tx, dtype="i4"), n_rx), "1")
        put(g, "channel_rx", channel_rx.ravel().astype("i4"), "1")

        a = f.create_group("acquisition")
        a.attrs.update(waveform="stepped_frequency", phase_convention="exp(+j*2*pi*f*tau)")
        a.attrs.update(amplitude_model="none", calibrated=False)
        put(a, "propagation_speed", SPEED_OF_LIGHT, "m/s")

        c = f.create_group("calibration")
        put(c, "background", incident.reshape(1, -1, n_freq).astype("c8"), "1", axes=axes)
        if "phase" in options:
            gain = np.repeat(source_gain(incident, frequency, radius), n_rx, axis=0)
            put(c, "gain", gain.astype("c8"), "1", axes=["channel", "frequency"])

        grid = f.create_group("grid")  # suggested, order z, y, x: the plane of the antennas
        put(grid, "origin", [0.0, -0.12, -0.12], "m")
        put(grid, "spacing", [0.0025, 0.0025, 0.0025], "m")
        grid["shape"] = np.array([1, 97, 97], dtype="i4")


if __name__ == "__main__":
    main(*sys.argv[1:])
