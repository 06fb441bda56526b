"""Training data: pure items, splits that share nothing, targets in [0, 1], files read as they were written."""

import pickle
import sys

import h5py
import nibabel
import numpy as np
import pytest
import torch
from data_cases import radar, reconstruction
from torch.utils.data import DataLoader

import data.phantoms.random_scenes as scenes
from data import DataFormatError, write_measurement, write_reconstruction
from data.phantoms import HELD_OUT_CHARACTERS, SimulationError
from data.training import IMAGE_KINDS, KINDS, Mixture, SyntheticImages, SyntheticVolumes, VolumeFiles, WithPhase
from data.training.sampling import crop_occupied, flip_and_scale, permute
from data.training.with_phase import phase

CROP, GRID = (24, 16, 16), (49, 25, 25)
MIX = dict.fromkeys(KINDS, 1.0)
IMAGE_MIX = dict.fromkeys(IMAGE_KINDS, 1.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def volumes(mix=None, shape=CROP, **settings):
    return SyntheticVolumes(mix or MIX, shape, **{"seed": 3, "n_volumes": 20, **settings})


def images(mix=None, shape=(32, 40), **settings):
    return SyntheticImages(mix or IMAGE_MIX, shape, **{"seed": 3, "n_images": 20, "image_shape": (48, 48), **settings})


def ramp_files(folder, n=3, shape=(20, 12, 10)):
    """Volumes whose value says where a voxel is: z in the tens, the rest below."""
    for i in range(n):
        np.save(folder / f"{i:02}.npy", np.broadcast_to(np.arange(shape[0])[:, None, None] + 1.0, shape))
    return folder


def files(folder, shape=(8, 6, 6), **settings):
    return VolumeFiles(folder, shape, **{"seed": 5, "augment": False, **settings})


@pytest.fixture
def folder(tmp_path):
    return ramp_files(tmp_path)


# Purity


@pytest.mark.parametrize("make", [volumes, images], ids=["volumes", "images"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_item_depends_on_its_index_alone(make, split):
    one, other = make(split=split), make(split=split)
    forward = [one[i] for i in range(12)]
    backward = [other[i] for i in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert torch.equal(one[7], forward[7])
    assert torch.equal(pickle.loads(pickle.dumps(one))[5], forward[5])
    assert torch.equal(make(split=split)[10**7], one[10**7])  # any index


def test_an_item_is_its_own_copy():
    dataset = volumes({"sx": 1}, GRID, split="validation")
    dataset[0].fill_(-1)
    assert dataset[0].min() >= 0
    assert dataset[0].dtype == torch.float32
    assert dataset[0].is_contiguous()


@pytest.mark.parametrize("changed", [{"seed": 4}, {"split": "validation"}])
def test_other_seeds_and_splits_share_no_target(changed):
    for kind in set(KINDS) - {"empty"}:
        one, other = volumes({kind: 1}), volumes({kind: 1}, **changed)
        ours, theirs = ({d.target(kind, i).tobytes() for i in range(4)} for d in (one, other))
        assert len(ours) == len(theirs) == 4
        assert not ours & theirs


def test_a_volume_is_the_same_whichever_of_its_chunk_is_made_first():
    one, other = volumes({"sx": 1}), volumes({"sx": 1})
    one.target("sx", 17), other.target("sx", 18)
    assert np.array_equal(one.target("sx", 18), other.target("sx", 18))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_what_the_main_process_gives(start, folder):
    dataset = Mixture([(1.0, volumes({"points": 1}, (8, 6, 6))), (1.0, files(folder))], seed=1)
    loader = DataLoader(
        torch.utils.data.Subset(dataset, range(6)), batch_size=3, num_workers=1, multiprocessing_context=start
    )
    assert torch.equal(torch.cat(list(loader)), torch.stack([dataset[i] for i in range(6)]))


def test_iteration_ends():
    assert len(list(volumes({"points": 1}, n_volumes=3))) == 3


# Targets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid_shape", [GRID, (1, 9, 12)])
def test_every_kind_is_a_volume_of_peak_1(kind, grid_shape):
    dataset = volumes({kind: 1}, grid_shape=grid_shape)
    for number in range(6):
        target = dataset.target(kind, number)
        assert target.shape == grid_shape
        assert target.min() >= 0
        assert target.max() == (0 if kind == "empty" else 1)


@pytest.mark.parametrize("shape", [CROP, GRID, (61, 61, 61), (5, 1, 30)])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_crops_of_any_shape_hold_values_from_0_to_1(shape, split):
    dataset = volumes(shape=shape, split=split, n_volumes=8)
    items = torch.stack([dataset[i] for i in range(20)])
    assert items.shape[1:] == shape
    assert items.min() >= 0
    assert items.max() <= 1
    assert (items.flatten(1).amax(1) > 0).sum() > 12


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_every_kind_of_image_is_from_0_to_1(kind):
    dataset = images({kind: 1})
    for i in range(12):
        assert dataset[i].shape == (32, 40)
        assert dataset[i].min() >= 0
        assert 0 < dataset[i].max() <= 1


def test_large_grids_work():
    assert volumes({"layered": 1}, (61, 61, 61), grid_shape=(61, 61, 61), n_volumes=1)[0].max() > 0


def test_whole_volumes_in_validation():
    dataset = volumes({"mesh": 1}, GRID, split="validation")
    assert torch.equal(dataset[4], torch.from_numpy(dataset.target("mesh", 4).astype(np.float32)))


def test_held_out_characters_are_never_written(monkeypatch):
    texts = []
    outlines = scenes._polygons
    monkeypatch.setattr(scenes, "_polygons", lambda text, *a: texts.append(text) or outlines(text, *a))
    dataset = volumes({"letters": 1})
    for i in range(20):
        dataset.target("letters", i)
    texts += [scenes.random_text(rng(i)) for i in range(2000)]
    assert {*"MIORADNmioradn0"} == HELD_OUT_CHARACTERS
    assert not HELD_OUT_CHARACTERS & {*"".join(texts)}
    assert {*"".join(texts)} - {"\n"} == {*scenes.CHARACTERS}


def test_the_mix_is_kept():
    dataset = volumes({"empty": 3, "points": 1, "sx": 0}, (49, 25, 25))
    empty = sum(float(dataset[i].max()) == 0 for i in range(400))
    assert 260 < empty < 340


# Crops and augmentation


def test_crops_show_the_occupied_voxel_at_every_place():
    target = np.zeros((40, 30, 20), dtype=np.float32)
    target[20, 15, 10] = 1
    generator, places, seen = rng(1), [], 0
    for _ in range(600):
        crop = crop_occupied(target, (8, 6, 4), generator)
        seen += crop.max() > 0
        places += [int(np.argmax(crop.max(axis=(1, 2))))] if crop.max() > 0 else []
    assert 0.8 < seen / 600 < 0.92  # 85 %
    assert (np.bincount(places, minlength=8) > 35).all()  # of 64 expected


def test_crops_beyond_the_target_are_padded_with_zeros():
    target = rng().random((5, 7, 9)).astype(np.float32)
    for seed in range(5):
        crop = crop_occupied(target, (12, 7, 4), rng(seed))
        assert np.count_nonzero(crop) == 5 * 7 * 4


def test_flips_and_amplitudes():
    crop = np.arange(1, 9, dtype=np.float32).reshape(2, 2, 2) / 8
    generator = rng(2)
    out = [flip_and_scale(crop, generator) for _ in range(1000)]
    scaled = np.array([o.max() for o in out])
    assert 0.25 < np.mean(scaled < 1) < 0.35
    assert scaled.min() >= 0.5
    corners = [int(np.argmax(o)) for o in out]
    assert (np.bincount(corners, minlength=8) > 80).all()  # of 125 expected


def test_axes_are_exchanged_where_the_crop_allows():
    target = np.zeros(GRID)
    free = {permute(target, CROP, rng(i), free=True).shape for i in range(60)}
    assert free == {(49, 25, 25), (25, 49, 25), (25, 25, 49)}
    assert {permute(target, GRID, rng(i), free=True).shape for i in range(20)} == {GRID}
    marked = np.arange(8).reshape(2, 2, 2)
    tied = {permute(marked, (1, 1, 1), rng(i), free=False).tobytes() for i in range(40)}
    assert tied == {marked.tobytes(), marked.transpose(0, 2, 1).tobytes()}
    assert permute(marked, (1, 1, 2), rng(), free=False) is not None


def test_no_augmentation_keeps_the_target():
    dataset = volumes({"plates": 1}, GRID, augment=False)
    whole = {dataset.target("plates", i).astype(np.float32).tobytes() for i in range(20)}
    assert all(dataset[i].numpy().tobytes() in whole for i in range(8))


# Files


def crandn(*shape):
    return (rng().normal(size=shape) + 1j * rng(1).normal(size=shape)).astype(np.complex64)


def save_hdf5(path, values, key="volumes"):
    with h5py.File(path, "w") as file:
        file[key] = values


def save_nifti(path, values):
    nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), path)


WRITERS = {
    "a.npy": (np.save, {}),
    "a.npz": (lambda path, v: np.savez(path, only=v), {}),
    "b.npz": (lambda path, v: np.savez(path, u=v[:1], v=v), {"key": "v"}),
    "a.h5": (save_hdf5, {}),
    "b.hdf5": (lambda path, v: save_hdf5(path, v, "a/b"), {"key": "/a/b"}),
    "a.nii": (save_nifti, {}),
    "a.nii.gz": (save_nifti, {}),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shape", [(12, 6, 5, 4), (8, 7, 6)])
def test_a_file_is_read_as_it_was_written(tmp_path, name, shape):
    save, settings = WRITERS[name]
    values = rng().uniform(0, 7, shape).astype(np.float32)
    save(tmp_path / name, values)
    dataset = files(tmp_path / name, (1, 1, 1), **settings)
    series = values if values.ndim == 4 else values[None]
    assert len(dataset.facts["volumes"]) == (11 if len(series) > 1 else 1)  # the last of 12 validates
    for volume, read in zip(series, dataset._volumes, strict=False):
        expected = volume / volume.max()
        assert np.abs(read - expected[: len(read)]).max() < 1e-3


def test_backcast_files_give_their_volume_or_truth(tmp_path):
    measured, made = radar(), reconstruction()
    write_measurement(tmp_path / "m.h5", measured)
    write_reconstruction(tmp_path / "r.h5", made)
    for name, volume, key in (
        ("m.h5", measured.ground_truth, "/ground_truth/volume"),
        ("r.h5", made.volume, "/volume"),
    ):
        dataset = files(tmp_path / name, (2, 2, 2))
        magnitude = np.abs(volume.data.reshape(-1, *volume.data.shape[-3:]))[0]
        assert dataset.facts["volumes"][0]["key"] == key
        assert np.abs(dataset._volumes[0] - (magnitude / magnitude.max())[: len(dataset._volumes[0])]).max() < 1e-3


def test_complex_values_give_magnitudes(tmp_path):
    values = crandn(6, 5, 4)
    np.save(tmp_path / "a.npy", values)
    read = files(tmp_path, (1, 1, 1))._volumes[0]
    assert np.abs(read - (np.abs(values) / np.abs(values).max())[: len(read)]).max() < 1e-3


def test_scaling_follows_the_values_and_is_told(tmp_path):
    hounsfield = rng().uniform(-1000, 3000, (20, 10, 10)).astype(np.float32)
    np.save(tmp_path / "ct.npy", hounsfield)
    by_range = files(tmp_path, value_range=(-1000, 1000))
    assert by_range.facts["volumes"][0]["scaling"] == "value_range"
    read = by_range._volumes[0].astype(np.float32)
    assert np.allclose(read, np.clip((hounsfield[: len(read)] + 1000) / 2000, 0, 1), atol=1e-3)
    facts = files(tmp_path).facts["volumes"][0]
    assert facts["scaling"] == "percentiles 0.1 to 99.9"
    assert (facts["low"], facts["high"]) == pytest.approx(np.percentile(hounsfield, (0.1, 99.9)), rel=1e-4)


def test_few_volumes_are_split_by_slices(folder):
    train, validation = (files(folder, split=s, validation_fraction=0.2) for s in ("train", "validation"))
    seen = {s: {float(v) for i in range(60) for v in d[i].unique()} for s, d in (("t", train), ("v", validation))}
    assert seen["t"] == {float(np.float16(k / 20)) for k in range(1, 17)}
    assert seen["v"] == {0.0} | {float(np.float16(k / 20)) for k in range(17, 21)}  # 4 slices, padded to 8
    assert train.facts["split_by"] == "slices along z"
    assert [v["z_slices"] for v in validation.facts["volumes"]] == [[16, 20]] * 3


def test_many_volumes_are_split_by_volumes(tmp_path):
    ramp_files(tmp_path, n=10)
    train, validation = (files(tmp_path, split=s, validation_fraction=0.2) for s in ("train", "validation"))
    names = [[v["file"][-6:] for v in d.facts["volumes"]] for d in (train, validation)]
    assert names == [[f"{i:02}.npy" for i in range(8)], ["08.npy", "09.npy"]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_cut_across_their_axis(tmp_path, axis):
    shape = (20, 12, 10)
    along = np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
    np.save(tmp_path / "a.npy", np.broadcast_to(along + 1.0, shape))
    dataset = files(tmp_path, (6, 5), slices=axis)
    assert len(dataset) == (18, 12, 10)[axis]
    for i in range(10):
        assert dataset[i].shape == (6, 5)
        assert len(dataset[i].unique()) == 1


def test_files_are_pure_and_augmented(folder):
    one, other = files(folder, augment=True), files(folder, augment=True)
    assert all(torch.equal(one[i], other[i]) for i in (8, 2, 10**6))
    assert torch.equal(pickle.loads(pickle.dumps(one))[8], one[8])
    rising = [bool(one[i][0, 0, 0] < one[i][-1, 0, 0]) for i in range(60)]
    assert 15 < sum(rising) < 45


def test_one_picture_serves_as_a_slice(tmp_path):
    for i in range(10):
        np.save(tmp_path / f"{i}.npy", rng(i).random((12, 9)))
    assert files(tmp_path, (8, 8), slices=0)[0].shape == (8, 8)


# Mixture


def test_a_mixture_draws_by_weight():
    mixture = Mixture([(3.0, volumes({"empty": 1})), (1.0, volumes({"solids": 1}))], seed=0)
    filled = sum(float(mixture[i].max()) > 0 for i in range(200))
    assert 25 < filled < 75
    assert torch.equal(mixture[3], mixture[3])
    assert len(mixture) == 40


# Errors

SETTINGS = {
    "did you mean 'plates'": lambda: volumes({"plate": 1}),
    "did you mean 'ellipses'": lambda: images({"ellipse": 1}),
    "mix, sx: expected a weight >= 0, got -1": lambda: volumes({"sx": -1}),
    "mix: expected at least one kind of .*, got none": lambda: volumes({"sx": 0}),
    "shape: expected 3 counts >= 1 .nz, ny, nx., got": lambda: volumes(shape=(3, 4)),
    "shape: expected 2 counts >= 1 .ny, nx., got": lambda: images(shape=(0, 4)),
    "seed: expected an integer >= 0, got -1": lambda: volumes(seed=-1),
    "did you mean 'train'": lambda: volumes(split="training"),
    "expected at least one target per kind, got 0": lambda: volumes(n_volumes=0),
    "Mixture: expected at least one": lambda: Mixture([], 0),
    "Mixture, SyntheticVolumes: expected a weight > 0, got 0": lambda: Mixture([(0, volumes())], 0),
    "slices: expected 0, 1, 2": lambda: VolumeFiles(".", (1, 1), seed=0, slices=3),
    "validation_fraction: expected more than 0": lambda: VolumeFiles(".", (1, 1, 1), seed=0, validation_fraction=1),
    "value_range: expected low < high": lambda: VolumeFiles(".", (1, 1, 1), seed=0, value_range=(1, 1)),
}


@pytest.mark.parametrize("message", SETTINGS)
def test_a_wrong_setting_is_named(message):
    with pytest.raises(SimulationError, match=message):
        SETTINGS[message]()


def test_a_negative_index_is_refused(folder):
    for dataset in (volumes(), files(folder), Mixture([(1, volumes())], 0)):
        with pytest.raises(IndexError, match="expected an index >= 0, got -1"):
            dataset[-1]


def write_text(path):
    path.write_text("nothing of the kind")


BAD_FILES = {
    "expected a file or folder, found nothing": ("a.npy", lambda path: None, {}),
    "expected one of .h5, .*, found '.txt'": ("a.txt", write_text, {}),
    "expected an HDF5 file": ("a.h5", write_text, {}),
    "expected a numpy file of plain numbers": ("a.npy", write_text, {}),
    "a.npz: expected a numpy file of plain numbers": ("a.npz", write_text, {}),
    "expected a NIfTI image": ("a.nii", write_text, {}),
    "a.nii.gz: expected a NIfTI image": ("a.nii.gz", write_text, {}),
    "expected a single array, found u, v": ("a.npz", lambda path: np.savez(path, u=1, v=2), {}),
    "expected an array 'w', found u": ("a.npz", lambda path: np.savez(path, u=1), {"key": "w"}),
    "expected a dataset 'w', found volumes": ("a.h5", lambda p: save_hdf5(p, np.ones((2, 2, 2))), {"key": "w"}),
    "expected a dataset 'volumes' or 'volume', found u": ("a.h5", lambda p: save_hdf5(p, np.ones(3), "u"), {}),
    "volumes: expected numbers, found .S5": ("a.h5", lambda p: save_hdf5(p, "words"), {}),
    "expected .n, nz, ny, nx.*, found .3,.": ("a.npy", lambda path: np.save(path, np.ones(3)), {}),
    "expected finite values": ("a.npy", lambda path: np.save(path, np.full((3, 3, 3), np.nan)), {}),
    "found a single slice .3, 3.; set slices = 0": ("a.npy", lambda path: np.save(path, np.ones((3, 3))), {}),
    "ground_truth/volume: expected the true volume": (
        "a.h5",
        lambda path: write_measurement(path, radar(ground_truth=None)),
        {},
    ),
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_a_wrong_file_is_named(tmp_path, message):
    name, save, settings = BAD_FILES[message]
    save(tmp_path / name)
    with pytest.raises(DataFormatError, match=message) as caught:
        files(tmp_path / name, **settings)
    assert name in str(caught.value)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataFormatError, match="expected files .h5, .* in this folder, found none"):
        files(tmp_path)
    with pytest.raises(DataFormatError, match="expected at least one file or folder"):
        files([])


def test_a_volume_too_thin_to_split_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((1, 5, 5)))
    with pytest.raises(SimulationError, match="expected at least 2 to split"):
        files(tmp_path, (5, 5), slices=0)


def test_missing_nibabel_is_named(tmp_path, monkeypatch):
    save_nifti(tmp_path / "a.nii", np.ones((4, 4, 4), dtype=np.float32))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(DataFormatError, match="package nibabel.*pip install 'backcast.nifti"):
        files(tmp_path)


def test_with_phase_turns_magnitudes_into_complex_images():
    magnitudes = images(split="validation")
    items = WithPhase(magnitudes, 3)
    for i in range(4):
        item = items[i]
        assert item.dtype == torch.complex64
        torch.testing.assert_close(item.abs(), magnitudes[i])
        torch.testing.assert_close(item, items[i], rtol=0, atol=0)
    phases = torch.angle(torch.from_numpy(np.exp(1j * phase((64, 64), np.random.default_rng(1)))))
    steps = torch.angle(torch.exp(1j * phases.diff(dim=0)))
    assert 0 < float(steps.abs().max()) < 0.5
    with pytest.raises(SimulationError):
        WithPhase(magnitudes, -1)
