"""Reconstructions step by step, and methods as forms: what a window asks of the pipelines."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from data import read_reconstruction, write_measurement
from data.simulate import IrsMimoSimulation, TomographySimulation, irs_mimo, tomography
from imaging.solvers.run import drain
from pipelines.config import ConfigError
from pipelines.live import Live
from pipelines.methods import DEFAULT_METHOD, METHODS
from pipelines.reconstruct import reconstruct, reconstruct_steps
from viewer.running import History, RunFailed, updates


@pytest.fixture(scope="module")
def scan():
    return tomography(TomographySimulation(n=24, n_instants=8, motion="none"))


def test_every_step_has_an_image_like_the_result_s(scan):
    steps = reconstruct_steps(scan, "tv")
    images, seen = [], []
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result = end.value
            break
        seen.append(step.iteration)
        if step.iteration in (1, 5):
            images.append(step.image())
        assert step.rows[0]["iteration"] == step.iteration <= step.max_iter
    assert seen == list(range(1, result.convergence.n_iterations + 1))
    for image in images:
        assert image.axes == result.volume.axes
        assert image.data.shape == result.volume.data.shape
        assert image.units == result.volume.units
    early, late = (np.linalg.norm(i.data - result.volume.data) for i in images)
    assert late < early


def test_the_steps_lead_where_reconstruct_leads(scan):
    one, other = drain(reconstruct_steps(scan, "tv")), reconstruct(scan, "tv")
    np.testing.assert_array_equal(one.volume.data, other.volume.data)
    assert one.convergence.n_iterations == other.convergence.n_iterations


def test_the_last_step_of_channels_is_the_result():
    m = irs_mimo(IrsMimoSimulation(n_irs=64, n_rx=8, n_tx=4, grid_irs=8, grid_tx=6, grid_rx=8, n_pilots=4))
    image = None
    steps = Live().steps(m, "krosbl-svd")
    while True:
        try:
            image = next(steps).image()
        except StopIteration as end:
            result = end.value
            break
    assert image is not None
    np.testing.assert_allclose(image.data, result.volume.data, rtol=1e-5, atol=1e-6)


def test_a_closed_run_ends(scan):
    steps = reconstruct_steps(scan, "tv")
    next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


def test_frames_not_yet_begun_are_zero():
    m = tomography(TomographySimulation(n=24, n_instants=4, views_per_instant=6))
    step = next(reconstruct_steps(m, "pnp"))
    assert step.image().data.shape == m.ground_truth.data.shape


@pytest.mark.parametrize("modality", DEFAULT_METHOD)
def test_there_is_a_form_for_every_method(modality):
    forms = Live().forms(modality)
    assert [f.name for f in forms] == [m.name for m in METHODS if modality in m.modalities]
    assert [f.name for f in forms if f.default] == [DEFAULT_METHOD[modality]]
    for form in forms:
        values = [f"{f.name}={f.value}" for f in form.fields]
        method = next(m for m in METHODS if m.name == form.name and modality in m.modalities)
        assert Live().configuration(form.name, modality, values) == method.config()  # a form left alone changes nothing
        for field in form.fields:
            assert not field.choices or field.value in field.choices


def test_a_wrong_value_is_told_in_one_sentence():
    with pytest.raises(ConfigError, match="solver.max_iter: expected a whole number >= 1, found 0"):
        Live().configuration("tv", "tomography", ["solver.max_iter=0"])


def test_a_result_is_saved_with_its_provenance(scan, tmp_path):
    source = tmp_path / "scans" / "scan.h5"
    source.parent.mkdir()
    write_measurement(source, scan)
    result = drain(Live().steps(scan, "fbp", source=source, program="a window"))
    target = tmp_path / "scan_recon.h5"
    Live().save(target, result, source)
    back = read_reconstruction(target)
    assert back.provenance["input_file"] == "scans/scan.h5"
    assert back.provenance["command_line"] == "a window"
    assert len(back.provenance["input_sha256"]) == 64
    np.testing.assert_array_equal(back.volume.data, result.volume.data)


def test_images_wait_for_a_window_that_is_slow(scan):
    ready = threading.Event()
    ready.set()
    run = updates(Live(), scan, "tv", [], ready=ready)
    with_image = [next(run).volume is not None for _ in range(3)]
    ready.set()
    with_image += [next(run).volume is not None for _ in range(2)]
    assert with_image == [True, False, False, True, False]
    run.close()


def test_every_error_of_a_run_is_one_sentence(scan):
    class Broken(Live):
        def steps(self, *args, **keywords):
            raise RuntimeError("first line\nsecond line")
            yield

    with pytest.raises(RunFailed, match=r"^tv failed: RuntimeError: first line$"):
        next(updates(Broken(), scan, "tv", []))
    with pytest.raises(RunFailed, match="expected a whole number"):
        next(updates(Live(), scan, "tv", ["solver.max_iter=none at all"]))


def test_the_history_is_the_worst_frame_of_each_iteration():
    history = History()
    history.add([{"iteration": 1, "frame": 0, "primal_residual": 0.5, "psnr": 10.0}])
    history.add([{"iteration": 1, "frame": 1, "primal_residual": 0.7, "psnr": 20.0}, {"iteration": 2, "psnr": 30.0}])
    columns = history.columns
    assert columns["iteration"].tolist() == [1, 2]
    assert columns["psnr"].tolist() == [15, 30]
    assert columns["primal_residual"][0] == 0.7
    assert np.isnan(columns["primal_residual"][1])
