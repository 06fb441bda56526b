"""The registry of methods, which `reconstruct`, `config`, `methods` and the viewer's forms all read.

Needs no torch: a method's function is imported when it is called.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipelines import irs_mimo_config as irs
from pipelines import mri_config as mri
from pipelines import radar_config as radar
from pipelines import tomography_config as tomography
from pipelines.config import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from data.measurement import Measurement, Scale, Volume
    from imaging.operators.base import LinearOperator
    from imaging.priors import Denoiser
    from imaging.solvers.run import KeepBest
    from imaging.solvers.state import State

Kind = Literal["direct", "iterative, classical", "learned"]

#: What `reconstruct` takes for a modality when no method is named.
DEFAULT_METHOD = {"mimo_radar": "pnp", "tomography": "redpsm", "mri": "pnp", "irs_mimo": "krosbl-mm"}
#: The same for measurements of several frames, where it is another.
DEFAULT_DYNAMIC = {"mri": "redpsm"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run gives a method besides its configuration; none of it changes what is computed.

    Attributes:
        device: where tensors live.
        memory_limit: bytes that the method's arrays may take; None leaves it to the operator.
        denoiser: called as ``denoiser(v, sigma)``, for methods that take one.
    """

    device: torch.device
    memory_limit: int | None = None
    denoiser: Denoiser | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Frames that are imaged together.

    Attributes:
        frames: their indices in the measurement.
        operator: the forward model they share.
        y: their data as the method uses them (scaled, masked), (frame, *operator.out_shape).
        scale: what the image is multiplied with in the end, float64 (frame,).
        epsilon: radius of the data constraint ‖Ax - y‖ <= epsilon in y's units, float64 (frame,); None without one.
        direct: the image at once, (frame, *operator.in_shape); None for an iterative method.
        solve: the solver's states for some of the frames, as `imaging.solvers.run_batch` calls it; None for a
            direct method.
        movie: the frames are one problem: y, scale and epsilon have one row, and images are (1, frame, ...).
        stored: from images of the operator to what is kept of them, e.g. a crop; None keeps all.
        finish: what is made of the last state; None leaves it.
        spread: standard deviations of the image of the last state (None for a direct method, asked after it); None
            without any.
    """

    frames: tuple[int, ...]
    operator: LinearOperator
    y: Tensor
    scale: Tensor
    epsilon: Tensor | None = None
    direct: Callable[[], Tensor] | None = None
    solve: Callable[[Tensor, Any], Iterator[State]] | None = None
    movie: bool = False
    stored: Callable[[Tensor], Tensor] | None = None
    finish: Callable[[State], State] | None = None
    spread: Callable[[State | None], Tensor | None] | None = None

    @property
    def problems(self) -> list[list[int]]:
        """The frames of each problem."""
        return [list(self.frames)] if self.movie else [[f] for f in self.frames]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a method images one measurement.

    Attributes:
        parts: made one after the other, so that one operator is in memory at a time.
        n_frames: frames in all.
        image_axes: axes of a frame's image with their coordinates, in order.
        quantity, units, long_name: of the image.
        frame_scale: times of the frames; None takes the measurement's axis frame.
        batch_axes: axes that stand in front of an image's in place of frame, `n_frames` in all; those of length 1 are
            left out. None for frame alone.
        moving: the operator is another in the end, so that the residual is what the last state says.
        channel: the channels that images (n_frames, ...) stand for, of irs_mimo.
        stop: per-problem stopping test.
        max_iter: iterations at most; 0 for a direct method.
        image: of a state; None takes its x.
        keep_best: which iterate is returned when not the last, and when to give up; None guards against growth of the
            residual alone.
        notes: sentences on what was assumed, for the user and the provenance; grows while parts are made.
        facts: plain values for the provenance (epsilon, data scale, solver); filled while parts are made.
        carried: tensors that parts leave for what is made of all of them; filled while parts are solved.
    """

    parts: Iterator[Part]
    n_frames: int
    image_axes: Mapping[str, Scale]
    quantity: str
    units: str
    long_name: str = ""
    frame_scale: Scale | None = None
    batch_axes: Mapping[str, Scale] | None = None
    channel: Callable[[np.ndarray], Volume] | None = None
    moving: bool = False
    stop: Callable[[State], Tensor] | None = None
    max_iter: int = 0
    image: Callable[[State], Tensor] | None = None
    keep_best: KeepBest | None = None
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    carried: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way from a measurement to an image.

    Attributes:
        name: as typed after ``-m``; methods of different modalities may share one.
        modalities: what it takes.
        kind: the column of the method table.
        summary: one line.
        config: frozen dataclass with defaults that work without tuning.
        function: "module:name" of ``(Measurement, config, Setting) -> Plan``.
        takes_denoiser: whether ``-d`` means something to it.
    """

    name: str
    modalities: tuple[str, ...]
    kind: Kind
    summary: str
    config: type
    function: str
    takes_denoiser: bool = False

    @property
    def full_name(self) -> str:
        """MODALITY:METHOD where several modalities have a method of this name, else the name alone."""
        shared = sum(m.name == self.name for m in METHODS) > 1
        return f"{self.modalities[0]}:{self.name}" if shared else self.name

    def plan(self, measurement: Measurement, config: Any, setting: Setting) -> Plan:
        """Set the method up for one measurement."""
        module, _, name = self.function.partition(":")
        plan: Plan = getattr(importlib.import_module(module), name)(measurement, config, setting)
        return plan


METHODS: tuple[Method, ...] = (
    Method(
        name="backprojection",
        modalities=("mimo_radar",),
        kind="direct",
        summary="sum along the hyperbolas with unit weights; any array",
        config=radar.BackprojectionConfig,
        function="pipelines.radar:backprojection",
    ),
    Method(
        name="kirchhoff",
        modalities=("mimo_radar",),
        kind="direct",
        summary="Kirchhoff migration; arrays in a plane z = const",
        config=radar.KirchhoffConfig,
        function="pipelines.radar:kirchhoff",
    ),
    Method(
        name="rangemigration",
        modalities=("mimo_radar",),
        kind="direct",
        summary="range migration by FFT; monostatic scans on a planar raster",
        config=radar.RangeMigrationConfig,
        function="pipelines.radar:rangemigration",
    ),
    Method(
        name="l1",
        modalities=("mimo_radar",),
        kind="iterative, classical",
        summary="sparse magnitude under a data constraint (C-SALSA)",
        config=radar.L1Config,
        function="pipelines.radar:l1",
    ),
    Method(
        name="tv",
        modalities=("mimo_radar",),
        kind="iterative, classical",
        summary="total variation of the magnitude under a data constraint, stopped early (C-SALSA)",
        config=radar.TvConfig,
        function="pipelines.radar:tv",
    ),
    Method(
        name="pnp",
        modalities=("mimo_radar",),
        kind="learned",
        summary="magnitude denoised by a network (or any denoiser, -d) under a data constraint (plug-and-play C-SALSA)",
        config=radar.PnpConfig,
        function="pipelines.radar:pnp",
        takes_denoiser=True,
    ),
    Method(
        name="fbp",
        modalities=("tomography",),
        kind="direct",
        summary="filtered back-projection, frame by frame; parallel and fan beam",
        config=tomography.FbpConfig,
        function="pipelines.tomography:fbp",
    ),
    Method(
        name="tv",
        modalities=("tomography",),
        kind="iterative, classical",
        summary="total variation in space, and in time for moving objects (primal-dual)",
        config=tomography.TvConfig,
        function="pipelines.tomography:tv",
    ),
    Method(
        name="psm",
        modalities=("tomography",),
        kind="iterative, classical",
        summary="partially separable movie: low rank, smooth in time, no spatial prior",
        config=tomography.PsmConfig,
        function="pipelines.tomography:psm",
    ),
    Method(
        name="pnp",
        modalities=("tomography",),
        kind="learned",
        summary="every frame regularised by a denoiser (RED), for sparse views and limited angles",
        config=tomography.PnpConfig,
        function="pipelines.tomography:pnp",
        takes_denoiser=True,
    ),
    Method(
        name="redpsm",
        modalities=("tomography",),
        kind="learned",
        summary="partially separable movie regularised by a denoiser (RED-PSM); a static object is one frame",
        config=tomography.RedPsmConfig,
        function="pipelines.tomography:redpsm",
        takes_denoiser=True,
    ),
    Method(
        name="adjoint",
        modalities=("mri",),
        kind="direct",
        summary="zero-filled or gridded: coils combined by their sensitivities, or root sum of squares",
        config=mri.AdjointConfig,
        function="pipelines.mri:adjoint",
    ),
    Method(
        name="sense",
        modalities=("mri",),
        kind="direct",
        summary="least squares with coil sensitivities, few conjugate-gradient steps",
        config=mri.SenseConfig,
        function="pipelines.mri:sense",
    ),
    Method(
        name="l1wavelet",
        modalities=("mri",),
        kind="iterative, classical",
        summary="sparse orthogonal wavelets with random shifts (ADMM)",
        config=mri.WaveletConfig,
        function="pipelines.mri:l1wavelet",
    ),
    Method(
        name="tv",
        modalities=("mri",),
        kind="iterative, classical",
        summary="total variation in space, and in time for movies (primal-dual)",
        config=mri.TvConfig,
        function="pipelines.mri:tv",
    ),
    Method(
        name="psm",
        modalities=("mri",),
        kind="iterative, classical",
        summary="partially separable movie: low rank, smooth in time, no spatial prior",
        config=mri.PsmConfig,
        function="pipelines.mri:psm",
    ),
    Method(
        name="lps",
        modalities=("mri",),
        kind="iterative, classical",
        summary="low-rank plus sparse movie (accelerated proximal gradients)",
        config=mri.LpsConfig,
        function="pipelines.mri:lps",
    ),
    Method(
        name="pnp",
        modalities=("mri",),
        kind="learned",
        summary="every slice or frame regularised by a denoiser with a falling noise level",
        config=mri.PnpConfig,
        function="pipelines.mri:pnp",
        takes_denoiser=True,
    ),
    Method(
        name="redpsm",
        modalities=("mri",),
        kind="learned",
        summary="partially separable movie regularised by a denoiser (RED-PSM)",
        config=mri.RedPsmConfig,
        function="pipelines.mri:redpsm",
        takes_denoiser=True,
    ),
    Method(
        name="ls",
        modalities=("irs_mimo",),
        kind="direct",
        summary="least squares of least norm, no sparsity",
        config=irs.LsConfig,
        function="pipelines.irs_mimo:ls",
    ),
    Method(
        name="omp",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="orthogonal matching pursuit, coefficient by coefficient",
        config=irs.OmpConfig,
        function="pipelines.irs_mimo:omp",
    ),
    Method(
        name="komp",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="orthogonal matching pursuit with a Kronecker support",
        config=irs.KompConfig,
        function="pipelines.irs_mimo:komp",
    ),
    Method(
        name="sbl",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="sparse Bayesian learning, a variance for each coefficient",
        config=irs.SblConfig,
        function="pipelines.irs_mimo:classical_sbl",
    ),
    Method(
        name="pcsbl",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="pattern-coupled sparse Bayesian learning, neighbouring coefficients share",
        config=irs.PcSblConfig,
        function="pipelines.irs_mimo:pcsbl",
    ),
    Method(
        name="krosbl-am",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="Kronecker-structured sparse Bayesian learning by alternating minimisation; the evidence never falls",
        config=irs.KroAmConfig,
        function="pipelines.irs_mimo:krosbl_am",
    ),
    Method(
        name="krosbl-svd",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="Kronecker-structured sparse Bayesian learning with rank-one projections of the variances",
        config=irs.KroSvdConfig,
        function="pipelines.irs_mimo:krosbl_svd",
    ),
    Method(
        name="krosbl-mm",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="Kronecker-structured sparse Bayesian learning: rank-one projections, then majorise-minimise updates",
        config=irs.KroMmConfig,
        function="pipelines.irs_mimo:krosbl_mm",
    ),
    Method(
        name="pckrosbl",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="pattern-coupled Kronecker-structured sparse Bayesian learning, for channels that come in blocks",
        config=irs.PcKroConfig,
        function="pipelines.irs_mimo:pckrosbl",
    ),
    Method(
        name="dsbl",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="decomposed sparse Bayesian learning, each factor on its own; channels of rank one only",
        config=irs.DsblConfig,
        function="pipelines.irs_mimo:dsbl",
    ),
    Method(
        name="offgrid",
        modalities=("irs_mimo",),
        kind="iterative, classical",
        summary="dsbl with directions between those of a grid; linear arrays, channels of rank one only",
        config=irs.OffgridConfig,
        function="pipelines.irs_mimo:offgrid",
    ),
)


def find_method(name: str | None, modality: str | None = None, *, moving: bool = False) -> Method:
    """The method of that name; the modality's default when no name is given, the first where several share it.

    Args:
        name: METHOD or MODALITY:METHOD.
        modality: of the measurement, when it is known.
        moving: whether the measurement has several frames, which may change the default.

    Raises:
        ConfigError: an unknown name (with the nearest known one), or a method for other modalities.
    """
    if name is None:
        if modality not in DEFAULT_METHOD:
            known = ", ".join(DEFAULT_METHOD)
            raise ConfigError(f"no method images {modality} measurements yet; modalities with methods: {known}")
        defaults = {**DEFAULT_METHOD, **DEFAULT_DYNAMIC} if moving else DEFAULT_METHOD
        name = defaults[modality]
    return methods_named(name, modality)[0]


def methods_named(name: str, modality: str | None = None) -> list[Method]:
    """The methods that a name may mean, at least one; arguments and errors as `find_method`."""
    wanted, _, plain = name.rpartition(":")
    if wanted and wanted not in DEFAULT_METHOD:
        raise ConfigError(f"unknown modality {wanted} in {name}; modalities with methods: {', '.join(DEFAULT_METHOD)}")
    named = [m for m in METHODS if m.name == plain]
    if not named:
        names = sorted({m.name for m in METHODS})
        near = difflib.get_close_matches(plain, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"unknown method {name}; {hint}known methods: {', '.join(names)}")
    for one in dict.fromkeys((wanted or None, modality)):
        fitting = [m for m in named if one is None or one in m.modalities]
        if not fitting:
            takes = ", ".join(dict.fromkeys(x for m in named for x in m.modalities))
            others = ", ".join(m.name for m in METHODS if one in m.modalities) or "none"
            raise ConfigError(f"method {plain} takes {takes}, not {one}; methods for {one}: {others}")
        named = fitting
    return named
