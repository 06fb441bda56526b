"""Channel estimation from pilot files: methods, results, figures of merit, and one sentence per mistake."""

import dataclasses
import json
import math

import h5py
import matplotlib.image as image
import numpy as np
import pytest
from typer.testing import CliRunner

from data import DataFormatError, read_measurement, read_reconstruction, write_measurement, write_reconstruction
from data.angular import spectrum
from data.measurement import Volume
from data.simulate import IrsMimoSimulation, irs_mimo
from pipelines.channel_figures import channel_png
from pipelines.channel_quality import channel_quality
from pipelines.cli import app
from pipelines.config import ConfigError, resolve
from pipelines.methods import METHODS, find_method
from pipelines.reconstruct import reconstruct
from pipelines.tune import tune

NAMES = [m.name for m in METHODS if "irs_mimo" in m.modalities]
BAYESIAN = ("sbl", "krosbl-am", "krosbl-svd", "krosbl-mm", "pckrosbl", "pcsbl", "dsbl")
#: More measurements than the published experiment has, so that every method that can work does.
EASY = {"n_irs": 64, "n_rx": 8, "n_tx": 4, "grid_irs": 8, "grid_tx": 6, "grid_rx": 8, "n_configs": 8, "n_pilots": 4}


def scan(**changes):
    return irs_mimo(IrsMimoSimulation(**{**EASY, "snr_db": 25.0, **changes}))


def configured(name, *assignments):
    return resolve(find_method(name).config, [], assignments, name=name)


def with_acquisition(m, **changes):
    return dataclasses.replace(m, acquisition={**m.acquisition, **changes})


def with_dictionary(m, **changes):
    table = {k: v for k, v in {**m.dictionary, **changes}.items() if v is not None}
    return dataclasses.replace(m, dictionary=table)


def mean(result, name):
    return float(np.mean(result.metrics[name].value))


# -- what comes out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in NAMES if n != "offgrid"])
def test_every_method_gives_coefficients_and_channels(name):
    m = scan()
    result = reconstruct(m, name)
    assert result.volume.axes == ("grid_1", "grid_2", "grid_3")
    assert result.volume.data.dtype == np.complex64
    assert result.volume.quantity == "channel_coefficient"
    assert result.channel.data.shape == (8, 8, 4)
    assert result.channel.axes == ("config", "rx", "tx")
    assert set(result.metrics) >= {"nmse", "symbol_error_rate", "spectral_efficiency", "measurement_residual"}
    assert "support_recovery" in result.metrics
    # 25 dB: what is sparse and Kronecker is found; the others are far from it
    limit = {"ls": 0.5, "komp": 0.5, "sbl": 0.15, "pcsbl": 1.0}.get(name, 0.02)
    assert mean(result, "nmse") < limit
    if name in BAYESIAN:
        assert result.uncertainty.shape == result.volume.data.shape
        assert result.uncertainty.min() >= 0
        assert result.uncertainty.max() > 0
        assert np.isfinite(result.convergence.columns["objective"]).all()
        sigma = result.convergence.columns["sigma"][-1]
        assert sigma**2 == pytest.approx(m.acquisition["noise_variance"], rel=0.5)
        assert np.mean(result.provenance["noise_variance"]) == pytest.approx(sigma**2, rel=1e-6)
    else:
        assert result.uncertainty is None


def test_the_default_is_the_method_of_the_page():
    assert find_method(None, "irs_mimo").name == "krosbl-mm"
    result = reconstruct(scan())
    assert json.loads(result.provenance["config"])["method"] == "krosbl-mm"
    assert result.convergence.stop_reason == "tolerance"
    assert (np.diff(result.convergence.columns["objective"]) <= 1e-6 * 1e4).all()


def test_a_channel_of_rank_one_is_polished():
    polished, plain = [], []
    for index in range(6):
        m = irs_mimo(IrsMimoSimulation(**EASY, snr_db=15.0), index)
        polished.append(mean(reconstruct(m, "krosbl-mm"), "nmse"))
        plain.append(mean(reconstruct(m, "krosbl-mm", configured("krosbl-mm", "solver.polish=never")), "nmse"))
    assert np.median(polished) < 0.8 * np.median(plain)


def test_rank_one_projections_come_before_the_last_iteration():
    with pytest.raises(ValueError, match=r"\[solver\] first: expected below max_iter = 20, found 30"):
        reconstruct(scan(), "krosbl-mm", configured("krosbl-mm", "solver.max_iter=20"))
    cold = reconstruct(scan(), "krosbl-mm", configured("krosbl-mm", "solver.first=0"))
    assert mean(cold, "nmse") < 0.02


def test_deviations_are_those_of_the_errors():
    """Standardised errors of the coefficients that are there have about unit size."""
    z = []
    for index in range(8):
        m = irs_mimo(IrsMimoSimulation(**EASY, snr_db=15.0), index)
        result = reconstruct(m, "krosbl-mm", configured("krosbl-mm", "solver.polish=never"))
        truth = m.extra_truth["coefficients"].values[0, 0]
        there = truth != 0
        z.append(np.abs(result.volume.data - truth)[there] / result.uncertainty[there])
    assert 0.4 < np.sqrt(np.mean(np.concatenate(z) ** 2)) < 2.0


def test_frames_and_subcarriers_are_problems_of_one_batch():
    m = scan(n_frames=2, n_subcarriers=3)
    whole = reconstruct(m, "krosbl-svd")
    assert whole.volume.axes == ("frame", "subcarrier", "grid_1", "grid_2", "grid_3")
    assert whole.channel.axes == ("frame", "subcarrier", "config", "rx", "tx")
    assert whole.metrics["nmse"].value.shape == (6,)
    np.testing.assert_array_equal(whole.volume.scale("subcarrier"), m.scale("subcarrier"))
    one = dataclasses.replace(m, data=m.data[1:, 2:], extra_truth={}, scales=_last(m))
    alone = reconstruct(one, "krosbl-svd")
    assert alone.volume.axes == ("grid_1", "grid_2", "grid_3")
    np.testing.assert_allclose(alone.volume.data, whole.volume.data[1, 2], atol=1e-5 * np.abs(alone.volume.data).max())


def _last(m):
    cut = {
        name: dataclasses.replace(m.scales[name], values=m.scales[name].values[-1:]) for name in ("frame", "subcarrier")
    }
    return {**m.scales, **cut}


def test_units_change_nothing():
    """Twice the amplitude is four times the power: the same coefficients, and a noise variance in watts."""
    m = scan()
    loud = dataclasses.replace(m, data=2 * m.data)
    loud = with_acquisition(loud, transmit_power=4.0, noise_variance=4 * m.acquisition["noise_variance"])
    one, other = reconstruct(m, "krosbl-mm"), reconstruct(loud, "krosbl-mm")
    np.testing.assert_allclose(other.volume.data, one.volume.data, rtol=1e-4, atol=1e-4)
    millivolts = with_acquisition(
        dataclasses.replace(m, data=1e3 * m.data), noise_variance=1e6 * m.acquisition["noise_variance"]
    )
    large = reconstruct(millivolts, "krosbl-mm")
    np.testing.assert_allclose(large.volume.data, 1e3 * one.volume.data, rtol=1e-4, atol=0.1)
    assert large.convergence.n_iterations == one.convergence.n_iterations
    assert other.provenance["noise_variance"] == pytest.approx(4 * one.provenance["noise_variance"])


@pytest.mark.parametrize("name", ["krosbl-mm", "krosbl-svd", "sbl"])
def test_unknown_noise_is_estimated(name):
    m = scan(noise_known=False)
    result = reconstruct(m, name)
    assert any("noise: estimated" in note for note in result.warnings)
    assert result.provenance["noise_variance"] == pytest.approx(
        float(m.extra_truth["noise_variance"].values), rel=0.5 if name == "sbl" else 0.3
    )
    assert mean(result, "nmse") < (0.15 if name == "sbl" else 0.02)
    given = reconstruct(m, name, configured(name, "noise.variance=0.01"))
    assert given.provenance["noise_variance"] == pytest.approx(0.01)
    assert any("from the configuration" in note for note in given.warnings)


def test_rank_one_methods_say_when_a_channel_is_not():
    m = scan(clusters=2, n_configs=16)
    result = reconstruct(m, "dsbl")
    assert any("not of rank one" in note and "use krosbl-mm" in note for note in result.warnings)
    assert mean(result, "nmse") > 0.1
    general = reconstruct(m, "krosbl-mm")
    assert not any("rank" in note for note in general.warnings)
    assert general.provenance["rank_one"] is False or general.provenance["rank_one"] == 0  # not polished
    assert mean(general, "nmse") < 0.02
    forced = reconstruct(m, "krosbl-mm", configured("krosbl-mm", "solver.polish=always"))
    assert mean(forced, "nmse") > 0.1
    assert not any("rank" in note for note in reconstruct(scan(), "dsbl").warnings)


def test_off_the_grid_directions_are_found():
    m = scan(angles="off_grid", paths_rx=1, paths_irs=1, n_configs=12, phase_bits=None)
    small = ("dictionary.n_irs=36", "dictionary.n_tx=16", "dictionary.n_rx=24", "solver.n_paths=[2, 1, 1]")
    result = reconstruct(m, "offgrid", configured("offgrid", *small))
    assert mean(result, "nmse") < 10 * 10**-2.5 * (12 + 8 + 4 - 2) / (12 * 8 * 4)  # noise that a rank-one fit keeps
    assert result.uncertainty.shape == result.volume.data.shape == (36, 16, 24)
    assert "support_recovery" not in result.metrics
    assert mean(result, "nmse") < 0.01 * mean(reconstruct(m, "dsbl"), "nmse")
    truth = float(m.extra_truth["rx_arrival"].values.reshape(-1)[0])
    found = result.provenance["directions_rx"]
    assert min(abs((np.ravel(found) - truth + 1) % 2 - 1)) < 0.1 * 2 / 24  # of the way between directions


def test_the_direct_path_is_taken_out():
    m = scan(direct_path=True, n_configs=12, direct_gain_db=3.0)
    left = reconstruct(m, "krosbl-mm")
    out = reconstruct(m, "krosbl-mm", configured("krosbl-mm", "data.direct_path=removed"))
    assert mean(out, "nmse") < 0.02 < mean(left, "nmse")
    assert out.channel.data.shape == (12, 8, 4)


def test_planar_arrays_have_two_axes_each():
    m = irs_mimo(
        IrsMimoSimulation(
            n_irs=64, irs_rows=8, n_rx=16, rx_rows=4, n_tx=4, grid_irs=5, grid_rx=5, grid_tx=6, n_configs=10, n_pilots=4
        )
    )
    result = reconstruct(m)
    assert result.volume.axes == ("grid_1", "grid_1_v", "grid_2", "grid_3", "grid_3_v")
    assert mean(result, "nmse") < 0.1
    assert "support_recovery" in result.metrics


def test_the_synthetic_problem_has_coefficients_and_no_channel():
    m = irs_mimo(IrsMimoSimulation(model="synthetic", snr_db=20.0))
    result = reconstruct(m, "krosbl-mm")
    assert result.channel is None
    assert mean(result, "nmse") < 0.05
    assert any("channel: none in the result" in note for note in result.warnings) == (result.channel is None)


# -- files ---------------------------------------------------------------------------------------------------


def test_results_are_read_back(tmp_path):
    result = reconstruct(scan(n_subcarriers=2), "krosbl-mm")
    path = tmp_path / "r.h5"
    write_reconstruction(path, result)
    back = read_reconstruction(path)
    assert back.warnings == ()
    np.testing.assert_array_equal(back.channel.data, result.channel.data)
    assert (back.channel.axes, back.channel.quantity) == (result.channel.axes, "channel")
    np.testing.assert_array_equal(back.uncertainty, result.uncertainty)
    for axis in back.volume.axes:
        np.testing.assert_array_equal(back.volume.scale(axis), result.volume.scale(axis))
    with h5py.File(path, "r+") as f:
        f["channel/data"][0, 0, 0, 0] = np.nan
    with pytest.raises(DataFormatError, match="/channel/data"):
        read_reconstruction(path)
    with h5py.File(path, "r+") as f:
        del f["channel/data"]
    with pytest.raises(DataFormatError, match="/channel/data: expected the channel"):
        read_reconstruction(path)


def cli(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_simulate_reconstruct_evaluate(tmp_path):
    scans, results = tmp_path / "scans", tmp_path / "channels"
    written = cli("simulate", "irs_mimo", "-o", scans, "-n", 3, "--seed", 1, "-s", "snr_db=20")
    assert written.split() == [str(scans / f"irs_mimo_{i:04d}.h5") for i in range(3)]
    cli("reconstruct", scans, "-m", "krosbl-svd", "-o", results)
    table = cli("evaluate", results).splitlines()
    assert table[0].split() == ["file", "method", "NMSE", "NMSE", "dB", "SRR", "SER", "SE", "residual"]
    assert [line.split()[1] for line in table[1:]] == ["krosbl-svd"] * 3
    assert "nmse" in (results / "summary.csv").read_text()
    figures = json.loads(cli("evaluate", results, "--json"))
    for one in figures:
        found = one["metrics"]
        stored = read_reconstruction(one["file"]).metrics
        assert found["nmse"]["value"] == pytest.approx(stored["nmse"].value)
        assert found["nmse_db"]["value"] == pytest.approx(10 * math.log10(found["nmse"]["value"]))
        assert found["spectral_efficiency"]["value"] <= found["spectral_efficiency_perfect"]["value"] + 1e-9
        assert 0 <= found["symbol_error_rate"]["value"] <= 0.75
        assert 0 <= found["support_recovery"]["value"] <= 1
    head = cli("evaluate", results, "--csv").splitlines()[0]
    assert head.split(",")[:4] == ["file", "method", "nmse", "measurement_residual"]
    # another file of the series is another truth
    other = cli("evaluate", results / "irs_mimo_0000_recon.h5", "--against", scans / "irs_mimo_0001.h5", "--json")
    assert json.loads(other)[0]["metrics"]["nmse"]["value"] > 0.5


def test_channels_are_tuned_by_their_error(tmp_path):
    cli("simulate", "irs_mimo", "-o", tmp_path, "-n", 2, "-s", "snr_db=10")
    files = sorted(tmp_path.glob("*.h5"))
    found = tune(files, "krosbl-svd", trials=3)
    assert found.score == "nmse"
    assert set(found.space) == {"solver.prune", "solver.width"}
    assert found.best.score <= found.start.score
    start = np.mean([mean(reconstruct(read_measurement(f), "krosbl-svd"), "nmse") for f in files])
    assert found.start.score == pytest.approx(start)
    text = cli("tune", tmp_path, "-m", "omp", "--trials", 2)
    assert "tuned: NMSE" in text
    assert 'method = "omp"' in text


def test_channels_that_cannot_be_tuned_are_a_sentence(tmp_path):
    cli("simulate", "irs_mimo", "-o", tmp_path)
    file = tmp_path / "irs_mimo_0000.h5"
    with pytest.raises(ConfigError, match="--score psnr: expected nmse, the one score of channels"):
        tune([file], "krosbl-mm", score="psnr", trials=1)
    with h5py.File(file, "r+") as f:
        del f["ground_truth"]
    with pytest.raises(ConfigError, match="expected a true channel to tune against, found none"):
        tune([file], "krosbl-mm", trials=1)


def test_evaluating_against_something_else_is_a_sentence(tmp_path):
    cli("simulate", "irs_mimo", "-o", tmp_path, "-s", "snr_db=20")
    cli("simulate", "irs_mimo", "-o", tmp_path / "more", "-s", "n_configs=4")
    cli("reconstruct", tmp_path / "irs_mimo_0000.h5", "-m", "ls", "-o", tmp_path)
    done = CliRunner().invoke(
        app,
        ["evaluate", str(tmp_path / "irs_mimo_0000_recon.h5"), "--against", str(tmp_path / "more/irs_mimo_0000.h5")],
    )
    assert done.exit_code == 1
    assert "expected the shape of the truth" in done.output


# -- figures -------------------------------------------------------------------------------------------------


def test_the_truth_is_perfect():
    m = scan()
    truth = m.extra_truth
    axes = {f"grid_{i}": m.dictionary[f"grid_{i}"] for i in (1, 2, 3)}
    volume = Volume(data=truth["coefficients"].values[0, 0], axes=tuple(axes), scales={})
    channel = Volume(data=truth["channel"].values[0, 0], axes=("config", "rx", "tx"), scales={})
    found = channel_quality(volume, channel, m, reference="here")
    assert found["nmse"].value == 0
    assert "nmse_db" not in found  # no finite number
    assert found["support_recovery"].value == 1
    assert found["spectral_efficiency"].value == pytest.approx(found["spectral_efficiency_perfect"].value)
    assert found["symbol_error_rate"].value < 1e-3
    assert {metric.reference for metric in found.values()} == {"here"}
    zero = dataclasses.replace(channel, data=0 * channel.data)
    nothing = channel_quality(dataclasses.replace(volume, data=0 * volume.data), zero, m, reference="")
    assert (nothing["nmse"].value, nothing["symbol_error_rate"].value) == (1, 0.75)
    assert (nothing["spectral_efficiency"].value, nothing["support_recovery"].value) == (0, 0)


# -- measurements that cannot be used -------------------------------------------------------------------------


def broken(name):
    m = scan()
    f1, f2 = m.dictionary["factor_1"], m.dictionary["factor_2"]
    nan = m.data.copy()
    nan[0, 0, 1, 2, 3] = np.nan
    return {
        "shapes": lambda: with_dictionary(m, factor_1=f1[:5]),
        "missing factor": lambda: with_dictionary(m, factor_2=None),
        "no dictionary": lambda: dataclasses.replace(m, dictionary={}, geometry={}),
        "no carrier": lambda: with_acquisition(dataclasses.replace(m, dictionary={}), carrier_frequency=None),
        "few positions": lambda: dataclasses.replace(
            m, dictionary={}, geometry={**m.geometry, "irs_positions": m.geometry["irs_positions"][:9]}
        ),
        "few pilots": lambda: with_acquisition(m, pilots=m.acquisition["pilots"][:, :3]),
        "no pilots": lambda: with_acquisition(m, pilots=0 * m.acquisition["pilots"]),
        "few patterns": lambda: with_acquisition(m, irs_reflection=m.acquisition["irs_reflection"][:7]),
        "active surface": lambda: with_acquisition(m, irs_reflection=20 * m.acquisition["irs_reflection"]),
        "no noise": lambda: with_acquisition(m, noise_variance=0.0),
        "negative noise": lambda: with_acquisition(m, noise_variance=-1.0),
        "no power": lambda: with_acquisition(m, transmit_power=0.0),
        "zero factor": lambda: with_dictionary(m, factor_2=0 * f2),
        "NaN factor": lambda: with_dictionary(m, factor_2=f2 * np.nan),
        "NaN": lambda: dataclasses.replace(m, data=nan),
        "zero": lambda: dataclasses.replace(m, data=0 * m.data),
        "grid": lambda: with_dictionary(m, grid_2=np.zeros(3)),
        "mask": lambda: dataclasses.replace(m, mask=np.zeros(8, np.uint8), mask_axes=("config",)),
        "same patterns": lambda: with_dictionary(m, factor_1=np.ones_like(f1)),
    }[name]()


@pytest.mark.parametrize("method", ["ls", "omp", "krosbl-mm", "dsbl"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shapes", "/dictionary/factor_1: expected factors of 8, 4 and 8 rows.*found 5, 4 and 8, 160 rows"),
        ("missing factor", "/dictionary/factor_2: expected three factors, found nothing"),
        ("no dictionary", "/geometry/irs_positions: expected it for steering vectors.*or write /dictionary"),
        ("no carrier", "/acquisition/carrier_frequency: expected it for steering vectors"),
        ("few positions", "/geometry/irs_positions: expected 64 elements, found 9"),
        ("few pilots", r"/acquisition/pilots: expected 4 along pilot, as the data have, found shape \(4, 3\)"),
        ("no pilots", "/acquisition/pilots: expected something that was sent, found only zeros"),
        ("few patterns", "/acquisition/irs_reflection: expected 8 along config"),
        ("active surface", "/acquisition/irs_reflection: expected a modulus of at most 1.*found 2.5"),
        ("no power", "/acquisition/transmit_power: expected W > 0, found 0"),
        ("zero factor", "/dictionary/factor_2: expected a matrix that is not 0 throughout"),
        ("NaN factor", "/dictionary/factor_2: expected finite numbers"),
        (
            "NaN",
            r"/measurement/data: expected finite samples, found 1 NaN or Inf of 256, the first at \[0, 0, 1, 2, 3\]",
        ),
        ("zero", "/measurement/data: expected a signal, found only zeros in frame 0, subcarrier 0"),
        ("grid", "/dictionary/grid_2: expected 6 values, one per column"),
        ("mask", "/measurement/mask: expected all samples measured"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(method, name, words):
    with pytest.raises(ValueError, match=words):
        reconstruct(broken(name), method)


@pytest.mark.parametrize(("name", "found"), [("no noise", "0"), ("negative noise", "-1")])
def test_noise_that_cannot_be_is_a_sentence(name, found):
    words = f"/acquisition/noise_variance: expected W > 0, found {found}; leave it out to have it estimated"
    for method in ("omp", "krosbl-mm", "sbl", "pcsbl"):
        with pytest.raises(ValueError, match=words):
            reconstruct(broken(name), method)
    reconstruct(broken(name), "krosbl-mm", configured("krosbl-mm", "noise.estimate=true"))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda f: _replace(f, "acquisition/noise_variance", 0.0), "BC505", "noise_variance: expected values > 0"),
        (lambda f: _replace(f, "acquisition/pilots", np.ones((4, 3), "c8")), "BC304", "pilots"),
        (lambda f: _replace(f, "acquisition/irs_reflection", 2 * np.ones((8, 64), "c8")), "BC505", "passive"),
        (lambda f: _replace(f, "dictionary/factor_3", np.ones((5, 8), "c8")), "BC304", "factors of 8, 4 and 8 rows"),
        (lambda f: f["measurement/data"].write_direct(np.zeros((1, 1, 8, 8, 4), "c8")), "BC503", "zeros"),
    ],
)
def test_files_that_cannot_be_used_are_a_sentence(tmp_path, change, code, words):
    path = tmp_path / "scan.h5"
    write_measurement(path, scan())
    with h5py.File(path, "r+") as f:
        change(f)
    with pytest.raises(DataFormatError, match=words) as error:
        read_measurement(path)
    assert code in str(error.value)


def _replace(f, name, value):
    attrs = dict(f[name].attrs)
    del f[name]
    f[name] = value
    for key, attr in attrs.items():
        f[name].attrs[key] = attr


def test_what_the_dictionary_cannot_tell_apart_is_said():
    m = scan()
    f2 = m.dictionary["factor_2"].copy()
    f2[:, 1], f2[:, 2] = f2[:, 0], 0
    result = reconstruct(with_dictionary(m, factor_2=f2), "krosbl-mm")
    assert np.isfinite(result.volume.data).all()
    assert np.abs(result.volume.data[:, 2]).max() == 0
    notes = "\n".join(result.warnings)
    assert "factor_2 has 1 columns of zeros, whose coefficients are not measured and stay 0" in notes
    assert "factor_2 has 1 pairs of columns of one direction, the first 0 and 1" in notes
    same = reconstruct(broken("same patterns"), "krosbl-mm")
    assert any("factor_1 has rank 1" in note and "patterns say nothing new" in note for note in same.warnings)
    for name in ("ls", "omp", "komp", "krosbl-svd", "krosbl-am", "pckrosbl", "sbl", "pcsbl", "dsbl"):
        result = reconstruct(with_dictionary(m, factor_2=f2), name)
        assert np.isfinite(result.volume.data).all(), name


def test_rows_in_the_order_of_the_samples_are_understood():
    m = scan(n_pilots=6)
    turned = {"factor_2": m.dictionary["factor_3"], "factor_3": m.dictionary["factor_2"]}
    grids = {"grid_2": m.dictionary["grid_3"], "grid_3": m.dictionary["grid_2"]}
    one, other = reconstruct(m, "krosbl-mm"), reconstruct(with_dictionary(m, **turned, **grids), "krosbl-mm")
    np.testing.assert_allclose(other.channel.data, one.channel.data, atol=1e-3 * np.abs(one.channel.data).max())
    np.testing.assert_allclose(
        other.volume.data, one.volume.data.swapaxes(1, 2), atol=1e-3 * np.abs(one.volume.data).max()
    )


def test_a_dictionary_is_made_from_positions():
    m = scan()
    made = reconstruct(dataclasses.replace(m, dictionary={}), "krosbl-mm")
    assert any("made from the positions" in note for note in made.warnings)
    assert made.volume.data.shape == (18, 18, 18)
    asked = reconstruct(
        m, "krosbl-mm", configured("krosbl-mm", "dictionary.n_irs=8", "dictionary.n_tx=6", "dictionary.n_rx=8")
    )
    stored = reconstruct(m, "krosbl-mm")
    np.testing.assert_allclose(asked.volume.data, stored.volume.data, atol=1e-4 * np.abs(stored.volume.data).max())


def test_pcsbl_has_to_know_the_noise():
    with pytest.raises(ValueError, match="noise_variance: pcsbl has to know the noise, found nothing"):
        reconstruct(scan(noise_known=False), "pcsbl")


def test_offgrid_takes_lines():
    m = irs_mimo(IrsMimoSimulation(n_rx=16, rx_rows=4, grid_rx=4))
    with pytest.raises(ValueError, match="rx_positions: offgrid takes elements on a line"):
        reconstruct(m, "offgrid")


def test_two_noises_are_refused():
    with pytest.raises(ValueError, match="expected one of variance, estimate"):
        configured("krosbl-mm", "noise.variance=1.0", "noise.estimate=true")


# -- pictures ------------------------------------------------------------------------------------------------


def test_a_picture_of_spectra_and_channels(tmp_path):
    m = scan(n_subcarriers=2)
    results = {name: reconstruct(m, name) for name in ("ls", "krosbl-mm")}
    path = tmp_path / "channels.png"
    channel_png(path, m, results, title="channels", captions={"truth": "8 patterns"})
    picture = image.imread(path)
    assert min(picture.shape[:2]) > 600
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50


def test_a_spectrum_is_the_power_of_each_direction():
    x, deviation = np.zeros((3, 2, 2), np.complex64), np.full((3, 2, 2), 0.1)
    x[1, 0, 1], x[1, 1, 1] = 3, 4j
    size, error = spectrum(x, deviation, 0)
    np.testing.assert_allclose(size, [0, 5, 0])
    np.testing.assert_allclose(error, [0.2, 0.1, 0.2])
    assert spectrum(x, None, 2)[1] is None
