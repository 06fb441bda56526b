"""Units are spelled as UDunits and pint spell them."""

import numpy as np
import pytest

from data.units import UnitError, si_unit, to_si


@pytest.mark.parametrize(
    ("units", "si", "value"),
    [
        ("m", "m", 85),
        ("mm", "m", 0.085),
        ("millimeter", "m", 0.085),
        ("millimetres", "m", 0.085),
        ("cm", "m", 0.85),
        ("km", "m", 85e3),
        ("um", "m", 85e-6),
        ("µm", "m", 85e-6),
        ("μm", "m", 85e-6),
        ("nm", "m", 85e-9),
        ("s", "s", 85),
        ("ms", "s", 0.085),
        ("us", "s", 85e-6),
        ("ns", "s", 85e-9),
        ("min", "s", 5100),
        ("Hz", "Hz", 85),
        ("MHz", "Hz", 85e6),
        ("GHz", "Hz", 85e9),
        ("gigahertz", "Hz", 85e9),
        ("1/s", "Hz", 85),
        ("s-1", "Hz", 85),
        ("1/ms", "Hz", 85e3),
        ("rad", "rad", 85),
        ("mrad", "rad", 0.085),
        ("deg", "rad", np.deg2rad(85)),
        ("degrees", "rad", np.deg2rad(85)),
        ("1", "1", 85),
        ("dimensionless", "1", 85),
        ("1/m", "1/m", 85),
        ("m^-1", "1/m", 85),
        ("m**-1", "1/m", 85),
        ("1/cm", "1/m", 8500),
        ("m/s", "m/s", 85),
        ("m s-1", "m/s", 85),
        ("m.s-1", "m/s", 85),
        ("meter / second", "m/s", 85),
        ("mm/us", "m/s", 85e3),
        ("mV", "V", 0.085),
        ("mW", "W", 0.085),
        ("T", "T", 85),
        ("dB", "dB", 85),
        ("MiB", "B", 85 * 2**20),
        ("kB", "B", 85e3),
        (" mm ", "m", 0.085),
    ],
)
def test_spellings(units, si, value):
    converted, unit = to_si(85, units, wanted=si)
    assert (si_unit(units), unit) == (si, si)
    np.testing.assert_allclose(converted, value, rtol=1e-15)


def test_the_nearest_double_is_found():
    values = np.arange(1, 1000)
    assert (to_si(values, "mm", wanted="m")[0] == values / 1000).all()


def test_precision_is_kept():
    assert to_si(np.ones(3, np.float32), "mm", wanted="m")[0].dtype == np.float32
    assert to_si(np.ones(3, np.complex64), "mV", wanted="V")[0].dtype == np.complex64
    same = np.ones(3)
    assert to_si(same, "m", wanted="m")[0] is same


@pytest.mark.parametrize(("units", "nearest"), [("hz", "Hz"), ("Mm", None), ("metres_", "metres"), ("xyzzy", None)])
def test_unknown_spelling_names_its_neighbour(units, nearest):
    if units == "Mm":  # a megametre is a unit, if a rare one
        assert to_si(1, units, wanted="m")[0] == 1e6
        return
    with pytest.raises(UnitError, match="not a known unit") as caught:
        to_si(1, units, wanted="m")
    assert caught.value.nearest == nearest


def test_another_kind():
    with pytest.raises(UnitError, match="unit of 'm', not of 'Hz'") as caught:
        to_si(1, "mm", wanted="Hz")
    assert caught.value.known
