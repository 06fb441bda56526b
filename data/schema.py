"""The two formats as tables: what each modality's file holds. Readers and writers both follow them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MEASUREMENT = "backcast-measurement"
RECONSTRUCTION = "backcast-reconstruction"
FORMAT_VERSION = "1.0"
#: m/s; what a radar file without /acquisition/propagation_speed means.
SPEED_OF_LIGHT = 299792458.0

# "tx" is the length of that axis, a word that is no axis of the file any length, a number itself.
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Attr:
    """One attribute.

    Args:
        name: its name.
        kind: "str", "bool", "float" or "strs" (a list of str).
        required: "yes" (an error when missing), "should" (a warning) or "no".
        allowed: the values that are allowed; empty for any.
        aliases: (spelling, allowed value): other spellings that readers understand.
    """

    name: str
    kind: str = "str"
    required: str = "yes"
    allowed: tuple[object, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ScaleRule:
    """The coordinates of one axis: `units` in SI, `index` for int32 counts, `increasing` strictly."""

    units: str
    index: bool = False
    increasing: bool = False
    positive: bool = False


@dataclass(frozen=True)
class Entry:
    """One dataset outside /measurement.

    Args:
        name: inside its group.
        dtype: in memory: "f8", "f4", "i4", "u1", "c8" or "str".
        shapes: the shapes that are allowed.
        units: SI units that are allowed; the first is written; empty when the dataset carries none.
        required: an error when missing.
        when: only where the data have this axis ("!axis": only where they have not).
        positive: every value > 0.
        heavy: read only when samples are.
        attrs: its own attributes.
    """

    name: str
    dtype: str
    shapes: tuple[Shape, ...] = ((),)
    units: tuple[str, ...] = ()
    required: bool = False
    when: str = ""
    positive: bool = False
    heavy: bool = False
    attrs: tuple[Attr, ...] = ()

    def applies(self, axes: tuple[str, ...]) -> bool:
        """Whether the entry belongs to data with these axes."""
        if not self.when:
            return True
        return self.when[1:] not in axes if self.when.startswith("!") else self.when in axes


@dataclass(frozen=True)
class Group:
    """One group with its attributes and datasets."""

    attrs: tuple[Attr, ...] = ()
    entries: tuple[Entry, ...] = ()
    required: bool = False


@dataclass(frozen=True)
class Modality:
    """One modality's measurement file.

    Args:
        layouts: the axis orders; the first that has the file's names is the canonical one.
        droppable: axes that a file may leave out when their length is 1.
        data_kind: "complex" or "real".
        data_units: SI units that are allowed.
        quantities: values of the attribute `quantity`.
        scales: one rule per axis name.
        groups: geometry, acquisition, calibration, dictionary, ground_truth.
    """

    name: str
    layouts: tuple[tuple[str, ...], ...]
    droppable: tuple[str, ...]
    data_kind: str
    data_units: tuple[str, ...]
    quantities: tuple[str, ...]
    scales: Mapping[str, ScaleRule]
    groups: Mapping[str, Group]


ROOT_ATTRS = (
    Attr("file_time"),
    Attr("creator"),
    Attr("creator_version"),
    Attr("uuid"),
    Attr("title", required="no"),
    Attr("description", required="no"),
    Attr("license", required="no"),
    Attr("doi", required="no"),
)

PHASE_CONVENTIONS = ("exp(-j*2*pi*f*tau)", "exp(+j*2*pi*f*tau)")
_CONVENTION_ALIASES = (
    ("exp(j*2*pi*f*tau)", PHASE_CONVENTIONS[1]),
    ("exp(-i*2*pi*f*tau)", PHASE_CONVENTIONS[0]),
    ("exp(+i*2*pi*f*tau)", PHASE_CONVENTIONS[1]),
    ("exp(i*2*pi*f*tau)", PHASE_CONVENTIONS[1]),
)
AMPLITUDE_MODELS = ("none", "1/(4*pi*Rt*Rr)")
WAVEFORMS = ("stepped_frequency", "fmcw_dechirped")

_FRAME = ScaleRule("s", increasing=True)
_INDEX = ScaleRule("1", index=True)
_COORDINATES = (
    Attr("frame", required="should"),
    Attr("coordinates", kind="strs", required="should", allowed=(("x", "y", "z"),)),
)
# Applied by the reader, in this order; each broadcasts over the data by axis names.
CALIBRATION_STEPS = ("background", "gain", "phase", "range_offset")

MIMO_RADAR = Modality(
    name="mimo_radar",
    layouts=(("frame", "tx", "rx", "frequency"), ("frame", "channel", "frequency")),
    droppable=("frame",),
    data_kind="complex",
    data_units=("1", "V"),
    quantities=("scattered_field",),
    scales={
        "frame": _FRAME,
        "tx": _INDEX,
        "rx": _INDEX,
        "channel": _INDEX,
        "frequency": ScaleRule("Hz", increasing=True, positive=True),
    },
    groups={
        "geometry": Group(
            required=True,
            attrs=(*_COORDINATES, Attr("downrange_axis", allowed=("x", "y", "z"))),
            entries=(
                Entry("tx_positions", "f8", (("tx", 3), ("frame", "tx", 3)), ("m",), required=True),
                Entry("rx_positions", "f8", (("rx", 3), ("frame", "rx", 3)), ("m",), required=True),
                Entry("channel_tx", "i4", (("channel",),), required=True, when="channel"),
                Entry("channel_rx", "i4", (("channel",),), required=True, when="channel"),
            ),
        ),
        "acquisition": Group(
            required=True,
            attrs=(
                Attr("waveform", allowed=WAVEFORMS),
                Attr("phase_convention", allowed=PHASE_CONVENTIONS, aliases=_CONVENTION_ALIASES),
                Attr("amplitude_model", allowed=AMPLITUDE_MODELS),
                Attr("calibrated", kind="bool"),
            ),
            entries=(Entry("propagation_speed", "f8", units=("m/s",), positive=True),),
        ),
        "calibration": Group(),
    },
)

TOMOGRAPHY = Modality(
    name="tomography",
    layouts=(("projection", "detector_row", "detector_column"),),
    droppable=("detector_row",),
    data_kind="real",
    data_units=("1",),
    quantities=("line_integral", "transmission", "counts"),
    scales={
        "projection": _INDEX,
        "detector_row": ScaleRule("m", increasing=True),
        "detector_column": ScaleRule("m", increasing=True),
    },
    groups={
        "geometry": Group(
            required=True,
            attrs=(*_COORDINATES, Attr("type", allowed=("parallel", "fan", "cone", "vectors"))),
            entries=(
                Entry("source_to_origin", "f8", units=("m",), positive=True),
                Entry("origin_to_detector", "f8", units=("m",)),
                Entry("rotation_axis_offset", "f8", units=("m",)),
                Entry("vectors", "f8", (("projection", 12),), ("m",)),
            ),
        ),
        "acquisition": Group(
            required=True,
            entries=(
                Entry(
                    "angle",
                    "f8",
                    (("projection",),),
                    ("rad",),
                    attrs=(
                        Attr("sense", allowed=("ccw_from_+z", "cw_from_+z")),
                        Attr("zero_ray", allowed=("+y",)),
                    ),
                ),
                Entry("time", "f8", (("projection",),), ("s",)),
                Entry("frame_index", "i4", (("projection",),), ("1",)),
                Entry("image_key", "u1", (("projection",),)),
            ),
        ),
        "calibration": Group(
            entries=(
                Entry("flat", "f4", (("n_flat", "detector_row", "detector_column"),), ("1",), heavy=True),
                Entry("dark", "f4", (("n_dark", "detector_row", "detector_column"),), ("1",), heavy=True),
            )
        ),
    },
)


def _coil_maps(when: str, shape: Shape) -> Entry:
    return Entry("coil_sensitivities", "c8", (shape,), ("1",), when=when, heavy=True)


MRI = Modality(
    name="mri",
    layouts=(
        ("slice", "coil", "ky", "kx"),
        ("frame", "coil", "kz", "ky", "kx"),
        ("frame", "coil", "readout", "sample"),
    ),
    droppable=("slice", "frame"),
    data_kind="complex",
    data_units=("1", "V"),
    quantities=("kspace",),
    scales={
        "frame": _FRAME,
        **dict.fromkeys(("slice", "coil", "kz", "ky", "kx", "readout", "sample"), _INDEX),
    },
    groups={
        "geometry": Group(
            required=True,
            attrs=_COORDINATES,
            entries=(
                Entry("field_of_view", "f8", ((3,),), ("m",), positive=True),
                Entry("recon_matrix", "i4", ((3,),), positive=True),
            ),
        ),
        "acquisition": Group(
            required=True,
            attrs=(
                Attr("fft_norm", allowed=("ortho",)),
                Attr("fft_centered", kind="bool"),
                Attr("fft_sign", kind="float", allowed=(-1.0,)),
                Attr("field_strength", kind="float", required="no"),
            ),
            entries=(
                Entry(
                    "trajectory",
                    "f4",
                    (("readout", "sample", "n_dims"), ("frame", "readout", "sample", "n_dims")),
                    ("1/m",),
                    required=True,
                    when="readout",
                    heavy=True,
                    attrs=(Attr("order", kind="strs", allowed=(("kz", "ky", "kx"), ("ky", "kx"))),),
                ),
                Entry("ismrmrd_header", "str"),
            ),
        ),
        "calibration": Group(
            entries=(
                Entry(
                    "coil_sensitivities",
                    "c8",
                    (("slice", "coil", "n_y", "n_x"),),
                    ("1",),
                    when="slice",
                    heavy=True,
                ),
                Entry(
                    "coil_sensitivities",
                    "c8",
                    (("coil", "n_z", "n_y", "n_x"),),
                    ("1",),
                    when="!slice",
                    heavy=True,
                ),
                Entry("noise_covariance", "c8", (("coil", "coil"),), ("1",), heavy=True),
            )
        ),
    },
)

_FACTORS = tuple(
    Entry(
        f"factor_{i}",
        "c8",
        ((f"m_{i}", f"n_{i}"),),
        ("1",),
        heavy=True,
        attrs=(
            Attr("order", required="should", allowed=("A = kron(factor_1, kron(factor_2, factor_3))",))
            if i == 1
            else Attr("order", required="no", allowed=("A = kron(factor_1, kron(factor_2, factor_3))",)),
        ),
    )
    for i in (1, 2, 3)
)

IRS_MIMO = Modality(
    name="irs_mimo",
    layouts=(("frame", "subcarrier", "config", "rx", "pilot"),),
    droppable=("frame",),
    data_kind="complex",
    data_units=("1", "V"),
    quantities=("received_pilots",),
    scales={
        "frame": _FRAME,
        "subcarrier": ScaleRule("Hz", increasing=True),
        **dict.fromkeys(("config", "rx", "pilot"), _INDEX),
    },
    groups={
        "geometry": Group(
            required=True,
            attrs=_COORDINATES,
            entries=(
                Entry("tx_positions", "f8", (("tx", 3),), ("m",)),
                Entry("rx_positions", "f8", (("rx", 3),), ("m",)),
                Entry("irs_positions", "f8", (("irs_element", 3),), ("m",)),
            ),
        ),
        "acquisition": Group(
            required=True,
            entries=(
                Entry("pilots", "c8", (("tx", "pilot"),), ("1",), required=True),
                Entry("irs_reflection", "c8", (("config", "irs_element"),), ("1",), required=True),
                Entry("carrier_frequency", "f8", units=("Hz",), positive=True),
                Entry("noise_variance", "f8", units=("W",), positive=True),
                Entry("transmit_power", "f8", units=("W",), positive=True),
            ),
        ),
        "calibration": Group(),
        "dictionary": Group(
            entries=(
                *_FACTORS,
                *(Entry(f"grid_{i}", "f8", ((f"n_{i}",),), ("1", "rad")) for i in (1, 2, 3)),
                # of planar arrays: the direction sine across the first one
                *(Entry(f"grid_{i}_v", "f8", ((f"n_{i}",),), ("1",)) for i in (1, 2, 3)),
            )
        ),
    },
)

#: What /ground_truth of IRS-MIMO files may hold: dtype and unit.
NAMED_TRUTHS = {
    "coefficients": ("c8", "1"),
    "channel": ("c8", "1"),
    "direct_channel": ("c8", "1"),
    "noise_variance": ("f8", "W"),
    **dict.fromkeys(("irs_arrival", "irs_departure", "tx_departure", "rx_arrival"), ("f8", "1")),
}

MODALITIES = {m.name: m for m in (MIMO_RADAR, TOMOGRAPHY, MRI, IRS_MIMO)}

# -- the reconstruction file ----------------------------------------------------------------------

RECONSTRUCTION_ATTRS = (
    *ROOT_ATTRS,
    Attr("input_uuid", required="should"),
)
VOLUME_SCALES = {
    "frame": ScaleRule("s", increasing=True),
    "z": ScaleRule("m", increasing=True),
    "y": ScaleRule("m", increasing=True),
    "x": ScaleRule("m", increasing=True),
}
VOLUME_LAYOUTS = (("z", "y", "x"), ("frame", "z", "y", "x"))
VOLUME_QUANTITIES = ("reflectivity", "attenuation", "magnetisation", "channel_coefficient")
CONVERGENCE_UNITS = {
    **dict.fromkeys(
        ("objective", "data_fidelity", "primal_residual", "dual_residual", "dual_change", "relative_change"),
        ("1",),
    ),
    **dict.fromkeys(("rho", "sigma", "step_size", "nmse"), ("1",)),
    "psnr": ("dB",),
    "elapsed": ("s",),
}
PREVIEWS = ("mip_z", "mip_y", "mip_x")

# -- provenance, common to both -------------------------------------------------------------------

PROVENANCE_TEXT = (
    "program",
    "version",
    "date",
    "command_line",
    "config",
    "config_sha256",
    "input_file",
    "input_sha256",
    "denoiser",
    "denoiser_version",
    "denoiser_sha256",
    "device",
    "precision",
    "git_commit",
    "python",
    "packages",
)
PROVENANCE_UNITS = {"wall_time": "s", "peak_memory": "B"}
