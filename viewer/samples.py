"""Sample data of all four modalities, simulated on the spot: the measurement, its scene and its truth."""

from __future__ import annotations

from typing import Any

from viewer.source import LayerData, Source


def mimo_radar() -> list[LayerData]:
    """A letter 0.5 m in front of two crossed linear arrays, 4 to 16 GHz."""
    from data.simulate import MimoRadarSimulation, mimo_radar
    from imaging.operators import Grid

    grid = Grid((0.40, -0.15, -0.15), (0.0125, 0.0125, 0.0125), (17, 25, 25))
    target = {"text": "R", "thickness_m": 0.03}
    config = MimoRadarSimulation(target="letters", target_parameters=target, grid=grid, n_frequencies=12)
    return _layers("radar sample", mimo_radar(config))


def tomography() -> list[LayerData]:
    """A slice that moves, seen once at each of 32 instants."""
    from data.simulate import TomographySimulation, tomography

    return _layers("tomography sample", tomography(TomographySimulation(n=64, n_instants=32)))


def mri() -> list[LayerData]:
    """A slice of a head, 4 coils, a third of the lines of k-space."""
    from data.simulate import MriSimulation, mri

    return _layers("MRI sample", mri(MriSimulation(n=64, n_coils=4)))


def irs_mimo() -> list[LayerData]:
    """Pilots over a reflecting surface."""
    from data.simulate import IrsMimoSimulation, irs_mimo

    return _layers("pilots sample", irs_mimo(IrsMimoSimulation(snr_db=12.0)))


def _layers(name: str, measurement: Any) -> list[LayerData]:
    from viewer.opening import layers_from
    from viewer.show import prepare

    prepare()
    return layers_from(Source(name=name, measurement=measurement))
