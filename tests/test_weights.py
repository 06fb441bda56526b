"""Weight files, their cards, and the commands `train` and `denoisers`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_cases import cli, command, environment
from safetensors.torch import load_file, save_file

import denoisers.shipped as shipped
from denoisers import (
    Card,
    DenoiserError,
    DnCnn,
    GatedUNet,
    NetworkDenoiser,
    load_denoiser,
    load_weights,
    read_card,
    save_weights,
)
from denoisers.card import card_path, file_sha256
from denoisers.checkpoint import load_checkpoint
from pipelines.train import read_train_config

CARD = Card(
    name="tiny",
    summary="a tiny one",
    network={"kind": "gated_unet", "options": {"channels": [4], "blocks": [1]}},
    n_dims=3,
    noise_range=(0.0, 0.2),
    data="nothing",
    validation={"mse": 1e-3, "images": "none", "mse_by_noise_level": {"0.1": 1e-3}},
    limits="everything",
    licence="BSD-3-Clause",
)


def network():
    torch.manual_seed(0)
    return GatedUNet((4,), (1,))


def saved(folder, **changes):
    path = folder / "tiny.safetensors"
    save_weights(path, network(), replace(CARD, **changes))
    return path


def rewrite(path, tensors, **changes):
    """Other weights under the same name, with a card whose hash fits."""
    save_file(tensors, path)
    card = replace(read_card(card_path(path)), sha256=file_sha256(path), **changes)
    card_path(path).write_text(card.to_json())


def edit_card(path, **changes):
    content = {**json.loads(card_path(path).read_text()), **changes}
    card_path(path).write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


# -- files ----------------------------------------------------------------------------------------------------


def test_weights_and_card_come_back_equal(tmp_path):
    net = network()
    path = tmp_path / "tiny.safetensors"
    written = save_weights(path, net, CARD)
    again, card = load_weights(path)
    assert card == written == replace(CARD, sha256=file_sha256(path), n_parameters=written.n_parameters)
    assert written.n_parameters == sum(p.numel() for p in net.parameters())
    assert not again.training
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in again.state_dict().items())
    v = torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(v, torch.tensor([0.1])), net.eval()(v, torch.tensor([0.1])))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.json", "tiny.safetensors"]


def test_weights_are_float32_whatever_the_network_is(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_weights(path, network().double(), CARD)
    assert {v.dtype for v in load_file(path).values()} == {torch.float32}


def test_equal_weights_give_equal_files(tmp_path):
    a, b = ((tmp_path / n) for n in "ab")
    a.mkdir(), b.mkdir()
    assert saved(a).read_bytes() == saved(b).read_bytes()


def test_own_weights_are_a_denoiser(tmp_path):
    path = saved(tmp_path)
    denoise = load_denoiser(str(path))
    assert (denoise.name, denoise.sha256, denoise.noise_range) == ("tiny.safetensors", file_sha256(path), (0.0, 0.2))
    v = torch.rand(2, 9, 8, 7, dtype=torch.float64)
    torch.testing.assert_close(denoise(v, 0.1), NetworkDenoiser(network())(v, 0.1))


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def other_network(path):
    rewrite(path, {k: v.contiguous() for k, v in DnCnn(3, 1, 4).state_dict().items()})


def wider(path):
    rewrite(path, GatedUNet((8,), (1,)).state_dict())


def another_key(path):
    rewrite(path, {**network().state_dict(), "more": torch.zeros(1)})


def not_a_number(path):
    tensors = network().state_dict()
    tensors["head.bias"][0] = np.nan
    rewrite(path, tensors)


def no_safetensors(path):
    path.write_bytes(b"PK hello" * 10)
    edit_card(path, sha256="")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])
    edit_card(path, sha256="")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, r"expected sha256 \w{12}\.\.\. as its card says, found \w{12}\.\.\.; the file is damaged"),
        (cut, "expected weights in safetensors format, found something else or a damaged file"),
        (no_safetensors, "expected weights in safetensors format, found something else or a damaged file"),
        (other_network, "found no head.weight; the file belongs to another network"),
        (wider, r"found head.weight of shape \(8, 9, 3, 3, 3\) instead of \(4, 9, 3, 3, 3\)"),
        (another_key, "found more besides"),
        (not_a_number, "head.bias: expected finite weights, found NaN or Inf"),
        (lambda p: p.unlink(), "expected a .safetensors file, found none; check the path"),
        (lambda p: card_path(p).unlink(), "expected the card of the weights beside them, found none"),
        (lambda p: card_path(p).write_text("{"), "expected a card in JSON, found a mistake"),
        (lambda p: card_path(p).write_bytes(b"\xff\xfe"), "expected a card in JSON, found a mistake"),
        (lambda p: card_path(p).write_text("[]"), "schema: expected 1, found list"),
        (lambda p: edit_card(p, schema=2), "schema: expected 1, found 2"),
        (lambda p: edit_card(p, noise_range=..., n_dims=...), "expected n_dims, noise_range, found none"),
        (lambda p: edit_card(p, n_dims=2), "n_dims: expected 3 as its network has, found 2"),
        (lambda p: edit_card(p, noise_range=[0.2, 0.1]), "noise_range: expected two numbers, low and high"),
        (lambda p: edit_card(p, n_dims=4), "n_dims: expected 2 or 3, found 4"),
        (lambda p: edit_card(p, network={}), "network: expected an object with kind and options"),
        (lambda p: edit_card(p, network="unet3d"), "network: expected an object"),
        (lambda p: edit_card(p, network={"kind": "dncnn", "options": [1]}), "network: expected an object with kind"),
        (lambda p: edit_card(p, network={"kind": "vgg"}), "network kind: expected one of unet3d"),
        (lambda p: edit_card(p, network={"kind": "dncnn", "options": {"a": 1}}), "unknown option a"),
        (lambda p: edit_card(p, validation=[1]), r"validation: expected an object, found \[1\]"),
        (lambda p: edit_card(p, sha256=3), "sha256: expected a text, found 3"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_a_sentence(tmp_path, damage, words):
    path = saved(tmp_path)
    damage(path)
    with pytest.raises(DenoiserError, match=words) as error:
        load_weights(path)
    assert "tiny" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(DenoiserError):
        load_denoiser(str(path))


def test_verification_can_be_left_out(tmp_path):
    path = saved(tmp_path)
    flip(path)
    load_weights(path, verify=False)


# -- backcast denoisers ---------------------------------------------------------------------------------------


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """Pretend that tiny comes with the package."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    return saved(tmp_path, training={"command": "backcast train tiny.toml", "steps": 7})


def test_the_list_names_shipped_and_classical_ones(ship):
    done = cli("denoisers")
    assert done.status == 0
    assert done.out == cli("denoisers", "list").out
    assert re.search(r"^tiny +3 +0 to 0.2 +1.00e-03 +[\d ]+ a tiny one$", done.out, flags=re.M)
    assert [line.split()[0] for line in done.out.splitlines()] == ["denoiser", "tiny", "nlm", "tv", "wavelet"]
    (card,) = json.loads(cli("denoisers", "list", "--json").out)
    assert card["name"] == "tiny"


def test_info_shows_the_card(ship):
    for name in ("tiny", ship):
        text = cli("denoisers", "info", name).out
        for words in ("tiny: a tiny one", "everything", "BSD-3-Clause", file_sha256(ship), "backcast train tiny.toml"):
            assert words in text
        assert re.search(r"sigma +0.1 +0.001", text)
    done = cli("denoisers", "info", "huge")
    assert (done.status, done.out) == (1, "")
    assert done.err == "backcast: huge: expected a .safetensors file or one of tiny, found neither\n"


def test_verify_compares_hashes(ship, tmp_path):
    done = cli("denoisers", "verify")
    assert (done.status, done.out) == (0, "tiny: as its card says\n")
    flip(ship)
    done = cli("denoisers", "verify", "tiny", "huge")
    assert done.status == 1
    first, second = done.out.splitlines()
    assert "expected sha256" in first
    assert "found neither" in second
    edit_card(ship, sha256="")
    assert "sha256: expected a hash, found none" in cli("denoisers", "verify", ship).out


def test_a_shipped_name_is_a_denoiser(ship):
    assert load_denoiser("tiny").name == "tiny"
    flip(ship)
    with pytest.raises(DenoiserError, match="expected sha256"):
        load_denoiser("tiny")


# -- backcast train -------------------------------------------------------------------------------------------

TOML = """
name = "tiny"
summary = "of a test"
licence = "BSD-3-Clause"
[network]
options = {channels = [4], blocks = [1]}
[data]
mix = {points = 0.75, empty = 0.25}
n_volumes = 8
shape = [8, 8, 8]
grid_shape = [10, 10, 10]
[validation]
n = 2
levels = 2
[training]
steps = 8
batch = 2
validate_every = 4
log_every = 2
warmup = 2
"""


@pytest.fixture
def toml(tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text(TOML)
    return file


def test_train_writes_weights_card_log_and_pictures(tmp_path, toml):
    import matplotlib.image

    out = tmp_path / "out"
    done = cli("train", toml, "-o", out)
    assert done.status == 0, done.err
    assert done.out == f"{out / 'tiny.safetensors'}\n"
    assert re.search(
        r"^step 8 of 8: training loss [\d.e-]+, validation MSE [\d.e-]+ \(0.05: .*, 0.15: ", done.err, re.M
    )
    log = (out / "log.csv").read_text().splitlines()
    assert log[0] == "step,train_loss,validation_mse,learning_rate"
    assert [line.split(",")[0] for line in log[1:]] == ["2", "4", "6", "8"]
    for name in ("step_0000004.png", "step_0000008.png"):
        picture = matplotlib.image.imread(out / "samples" / name)[..., :3]
        assert picture.shape[0] > 400
        assert float(picture.std()) > 0.05
    card = read_card(out / "tiny.json")
    assert (card.name, card.summary, card.licence, card.n_dims) == ("tiny", "of a test", "BSD-3-Clause", 3)
    assert card.sha256 == file_sha256(out / "tiny.safetensors")
    assert card.n_parameters == sum(p.numel() for p in network().parameters())
    assert card.noise_range == (0.0, 0.2)
    assert "points 75%, empty 25%" in card.data
    assert set(card.validation["mse_by_noise_level"]) == {"0.05", "0.15"}
    assert float(log[-1].split(",")[2]) == card.validation["mse"]  # the best one
    assert card.training["steps"] == 8
    assert card.training["config"]["training"]["lr"] == 1e-3
    assert read_train_config([out / "config.toml"]) == read_train_config([toml])
    assert cli("denoisers", "verify", out / "tiny.safetensors").status == 0
    v = torch.rand(1, 10, 9, 8)
    assert load_denoiser(str(out / "tiny.safetensors"))(v, 0.1).shape == v.shape


def test_a_second_run_says_that_all_is_done(tmp_path, toml):
    out = tmp_path / "out"
    assert cli("train", toml, "-o", out).status == 0
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    done = cli("train", toml, "-o", out)
    assert (done.status, done.out) == (0, f"{out / 'tiny.safetensors'}\n")
    assert done.err == f"{out}: 8 of 8 steps are done; --overwrite begins anew\n"
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    (out / "tiny.safetensors").unlink()  # lost weights come back from the checkpoint
    assert cli("train", toml, "-o", out).status == 0
    assert (out / "tiny.safetensors").read_bytes() == before["tiny.safetensors"]
    assert cli("train", toml, "-o", out, "-s", "limits=none known").status == 0
    changed = read_card(out / "tiny.json")
    assert changed.limits == "none known"
    assert changed.training == json.loads(before["tiny.json"])["training"]


def test_another_configuration_leaves_all_as_it_is(tmp_path, toml):
    out = tmp_path / "out"
    assert cli("train", toml, "-o", out).status == 0
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    done = cli("train", toml, "-o", out, "-s", "training.lr=0.01")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(
        f"backcast: {out / 'last.pt'}: expected a checkpoint of this configuration, found one of"
    )
    assert "(lr: 0.001 then, 0.01 now)" in done.err
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    assert cli("train", toml, "-o", out, "-s", "training.lr=0.01", "--overwrite").status == 0
    assert read_card(out / "tiny.json").training["config"]["training"]["lr"] == 0.01


def test_progress_none_is_silent(tmp_path, toml):
    assert cli("train", toml, "-o", tmp_path / "out", "--progress", "none").err == ""


def test_an_interrupt_ends_with_a_checkpoint_and_the_same_command_goes_on(tmp_path, toml):
    """SIGINT: exit status 130; the weights are then those of a run in one go."""
    more = ("-s", "training.steps=600", "-s", "training.validate_every=100", "-s", "ema=0.9")
    out, whole = tmp_path / "out", tmp_path / "whole"
    running = subprocess.Popen(
        command("train", toml, "-o", out, *more),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / "samples" / "step_0000100.png").exists():
        time.sleep(0.02)
        assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGINT)
    printed, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert printed == ""
    assert said.splitlines()[-1] == "backcast: interrupted; the same command goes on with what is left"
    assert said.count("interrupted") == 1
    assert not (out / "tiny.safetensors").exists()
    step = load_checkpoint(out / "last.pt")["step"]
    assert 100 <= step < 600
    again = cli("train", toml, "-o", out, *more)
    assert again.err.splitlines()[0] == f"{out}: {step} of 600 steps are done; --overwrite begins anew"
    assert (again.status, cli("train", toml, "-o", whole, *more).status) == (0, 0)
    assert (out / "tiny.safetensors").read_bytes() == (whole / "tiny.safetensors").read_bytes()
    assert (out / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.mix.sonar=1"], "kind: expected one of empty, layered, letters"),
        (["data.mix.points=much"], "[data]"),
        (
            ["network.options.depth=3"],
            "[network] network gated_unet: unknown option depth; it takes channels, blocks",
        ),
        (["network.options.channels=[-3]"], "[network] network gated_unet: cannot be built with"),
        (["network.kind=unet"], "network.kind: expected one of 'unet3d', 'gated_unet', 'dncnn', found 'unet'"),
        (["data.shape=[8,8]"], "[data] shape: expected 3 numbers for network gated_unet, found 2"),
        (["data.shape=[8]"], "shape: expected 2 or 3 numbers, found 1"),
        (["data.shape=[8,8,-1]"], "expected 3 counts >= 1"),
        (["data.validation_shape=[8,8]"], "validation_shape: expected 3 numbers as shape has, found 2"),
        (["data.known_sigma=0.1"], "[data] known_sigma: expected noisy images from files alone, found [data.mix] too"),
        (["data.files=['nothing.h5']"], "nothing.h5"),
        (["noise.low=0.3"], "expected low <= high, found 0.3 and 0.2"),
        (['noise.mismatch_files=["nothing.h5"]'], "nothing.h5: expected /noisy, /clean and /sigma"),
        (["training.steps=0"], "training.steps: expected a whole number >= 1, found 0"),
        (["training.stepps=9"], "did you mean training.steps?"),
        (
            ["training.optimiser=Adamm"],
            "[training] optimiser Adamm: expected a name of torch.optim or pytorch_optimizer",
        ),
        (["training.optimiser=LBFGS"], "[training] optimiser LBFGS: expected one that steps on a dense gradient alone"),
        (["training.optimiser_options.foo=3"], "[training] optimiser AdamW: unknown option foo; it takes lr, betas"),
        (["training.optimiser_options.betas=[2,3]"], "[training] optimiser AdamW: Invalid beta"),
        (["name=a/b"], "name: expected a file name without folders, found 'a/b'"),
        (
            ['noise.mismatch_files=["nothing.h5"]', "training.loss=sure"],
            "[noise] mismatch_files: expected loss supervised or log_supervised, found sure",
        ),
    ],
)
def test_a_bad_configuration_is_one_sentence_and_2(tmp_path, toml, monkeypatch, settings, words):
    monkeypatch.chdir(tmp_path)
    done = cli("train", toml, "-o", "out", *(part for s in settings for part in ("-s", s)))
    assert (done.status, done.out) == (2, "")
    assert words in done.err
    assert done.err.startswith("backcast: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be given"),
        ('name = "a"\n[data]\nmix = {sx = 1.0}\n', "training.steps must be given: expected a whole number >= 1"),
        ('name = "a"\n[training]\nsteps = 3\n', "expected kinds under [data.mix] or files, found neither"),
        ("name = ", "expected TOML, found a mistake"),
    ],
)
def test_what_is_missing_is_one_sentence_and_2(tmp_path, text, words):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    done = cli("train", file, "-o", tmp_path / "out")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert words in done.err


def test_a_missing_file_is_one_sentence_and_2(tmp_path):
    done = cli("train", tmp_path / "none.toml", "-o", tmp_path / "out")
    assert done.status == 2
    assert done.err.endswith("none.toml: cannot be read (No such file or directory); give an existing TOML file\n")


def test_a_damaged_checkpoint_is_one_sentence_and_2(tmp_path, toml):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last.pt").write_bytes(b"hello")
    done = cli("train", toml, "-o", tmp_path / "out")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "expected a training checkpoint" in done.err


def test_a_loss_out_of_bounds_is_one_sentence_and_1(tmp_path, toml):
    more = ("-s", "training.lr=1e30", "-s", "training.optimiser=SGD", "-s", "training.clip=none")
    done = cli("train", toml, "-o", tmp_path / "out", *more)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "expected a finite" in done.err


def test_the_printed_settings_train_once_the_required_ones_are_filled_in(tmp_path):
    text = cli("config", "init", "train").out
    missing = re.findall(r"^# (\w+) =$", text, flags=re.M)
    assert [m for m in missing if m in ("name", "steps")] == ["name", "steps"]
    text = text.replace("# name =", 'name = "mine"').replace("# steps =", "steps = 2")
    text = text.replace("mix = {}", "mix = {points = 1.0}")
    assert tomllib.loads(text)["name"] == "mine"
    file = tmp_path / "mine.toml"
    file.write_text(text)
    quick = ("training.batch=1", "data.shape=[8,8,8]", "data.n_volumes=2", "validation.n=1", "validation.levels=1")
    done = cli("train", file, "-o", tmp_path / "out", *(part for s in quick for part in ("-s", s)))
    assert done.status == 0, done.err
    assert done.out == f"{tmp_path / 'out' / 'mine.safetensors'}\n"


def test_weights_to_start_from(tmp_path, toml):
    start = saved(tmp_path)
    more = ("-s", f"network.start={start}", "-s", "training.lr=1e-12", "-s", "training.ema=0")
    done = cli("train", toml, "-o", tmp_path / "out", *more)
    assert done.status == 0, done.err
    weights, before = load_file(tmp_path / "out" / "tiny.safetensors"), network().state_dict()
    assert all(torch.allclose(v, before[k], atol=1e-8) for k, v in weights.items())
    wrong = cli("train", toml, "-o", tmp_path / "two", *more, "-s", "network.options.channels=[8]")
    assert wrong.status == 2
    assert "[network] start: expected weights of gated_unet with these options, found tiny" in wrong.err


def test_tensorboard_gets_events(tmp_path, toml):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    assert cli("train", toml, "-o", out, "-s", "tensorboard=true").status == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [2, 4, 6, 8]
    assert [e.step for e in events.Scalars("validation/mse")] == [4, 8]


def test_files_and_2d_and_noisy_images_alone(tmp_path):
    """DnCNN on slices of a file that is noisy itself, by splitting."""
    volume = np.clip(np.random.default_rng(0).normal(0.5, 0.1, (12, 16, 16)), 0, 1).astype(np.float32)
    np.save(tmp_path / "scan.npy", volume)
    file = tmp_path / "two.toml"
    file.write_text(f"""
name = "flat"
[network]
kind = "dncnn"
options = {{n_layers = 1, channels = 4}}
[data]
files = ["{tmp_path}/scan.npy"]
shape = [8, 8]
known_sigma = 0.1
[validation]
n = 2
levels = 1
[training]
steps = 4
batch = 2
loss = "split"
""")
    done = cli("train", file, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    card = read_card(tmp_path / "out" / "flat.json")
    assert card.n_dims == 2
    assert "noisy images of level 0.1, no clean ones" in card.data
    assert card.noise_range == pytest.approx((0.1 * 1.25**0.5,) * 2)  # what it was told
    assert load_denoiser(str(tmp_path / "out" / "flat.safetensors"))(
        torch.rand(1, 3, 9, 8), card.noise_range[0]
    ).shape == (1, 3, 9, 8)


def test_no_place_to_write_is_one_sentence(tmp_path, toml):
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = cli("train", toml, "-o", Path(blocked) / "out")
    assert done.status == 1
    assert done.err.count("\n") == 1
