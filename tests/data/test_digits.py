"""The embedded digits: the file, the splits, the noise."""

import hashlib
import importlib.util
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from dotkd.data import load_digits
from dotkd.seeding import random_stream

CLASS_SIZES = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
SCRIPT = Path(__file__).parents[2] / "scripts" / "write_digits.py"


@pytest.fixture
def file():
    return resources.files("dotkd.data").joinpath("digits.npz").read_bytes()


def parts(splits):
    return [part for part in splits if part is not None]


def numbers(part):
    return set(part.index.tolist())


def arrays(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def same(a, b):
    return torch.equal(a.index, b.index) and torch.equal(a.labels, b.labels)


def test_equals_the_digits_of_scikit_learn():
    peer = pytest.importorskip("sklearn.datasets")
    images, labels = peer.load_digits(return_X_y=True)
    for part in parts(load_digits()):
        batch = part.batch(range(len(part)))
        here = batch.index.numpy()
        assert np.array_equal(batch.images.flatten(1).numpy() * 16, images[here])
        assert np.array_equal(batch.labels.numpy(), labels[here])


def test_the_checksum_written_down_is_that_of_the_file(file):
    notes = resources.files("dotkd.data").joinpath("DIGITS.md").read_text("utf-8")
    assert f"`{hashlib.sha256(file).hexdigest()}`" in notes
    assert "10.24432/C50P49" in notes
    assert "CC BY 4.0" in notes
    assert len(file) < 50_000


@pytest.mark.skipif(not SCRIPT.exists(), reason="the scripts are not part of an installed package")
def test_the_script_writes_this_file(tmp_path):
    pytest.importorskip("sklearn.datasets")
    spec = importlib.util.spec_from_file_location("write_digits", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    checksum = script.write(tmp_path / "one.npz")
    assert script.write(tmp_path / "two.npz") == checksum
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one.npz", "two.npz"]
    # Not the bytes of the shipped file: they depend on the version of zlib, the arrays do not.
    written, shipped = arrays(tmp_path / "one.npz"), arrays(script.OUTPUT)
    assert list(written) == list(shipped) == ["images", "labels"]
    for name, array in shipped.items():
        assert array.dtype == written[name].dtype == np.uint8
        assert np.array_equal(array, written[name])


def test_default_sizes_shapes_and_names():
    splits = load_digits()
    assert [len(part) for part in splits] == [1200, 200, 397]
    for part in splits:
        images = part.batch(range(len(part))).images
        assert images.shape == (len(part), 1, 8, 8)
        assert images.dtype == torch.float32
        assert (images.min(), images.max()) == (0.0, 1.0)
        assert part.classes == tuple("0123456789")
        assert part.max_value == 16
        assert torch.equal(part.index, part.index.sort().values)


@pytest.mark.parametrize("validation", [0, 1, 200, 700, 1399])
@pytest.mark.parametrize("seed", [0, 5])
def test_splits_are_disjoint_and_together_everything(validation, seed):
    splits = load_digits(validation=validation, seed=seed)
    assert len(splits.train) == 1400 - validation
    assert (splits.validation is None) == (validation == 0)
    everything = [number for part in parts(splits) for number in part.index.tolist()]
    assert sorted(everything) == list(range(1797))


@pytest.mark.parametrize("seed", range(5))
def test_every_split_keeps_the_shares_of_the_classes(seed):
    for part in load_digits(seed=seed):
        counts = torch.bincount(part.labels, minlength=10).tolist()
        for size, count in zip(CLASS_SIZES, counts, strict=True):
            # Validation is stratified over what the test split left: two roundings, not one.
            assert abs(count - size * len(part) / 1797) < 2


def test_the_test_split_is_the_same_for_ever():
    index = load_digits().test.index
    for arguments in ({"seed": 1}, {"validation": 0}, {"label_noise": 0.5}):
        assert same(load_digits(**arguments).test, load_digits().test)
    digest = hashlib.sha256(",".join(map(str, index.tolist())).encode()).hexdigest()
    assert digest == "ded601e99c21a34f787ab6b4d1731be071f607181662a9cbd663cc9665dcd13d"


def test_the_test_split_is_spread_over_the_whole_file():
    # Neighbours in the file resemble each other; each quarter gives its share, 99.25 images.
    quarters = torch.histc(load_digits().test.index.float(), bins=4, min=0, max=1797)
    assert (quarters - 99.25).abs().max() < 5


def test_seed_zero_draws_what_it_always_drew():
    splits = load_digits(label_noise=0.3)
    assert splits.validation.index[:8].tolist() == [16, 36, 37, 41, 42, 51, 53, 60]
    assert splits.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 5, 0]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_reproducible_by_seed_and_different_between_seeds(noise):
    first, again, other = (load_digits(label_noise=noise, seed=seed) for seed in (3, 3, 4))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert numbers(first.validation) != numbers(other.validation)


def test_two_calls_share_no_memory():
    load_digits().train.pixels.zero_()
    assert load_digits().train.pixels.any()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.3333, 1.0])
@pytest.mark.parametrize("validation", [0, 200])
def test_noise_is_exact_and_in_the_training_labels_only(share, validation):
    clean = load_digits(validation=validation)
    noisy = load_digits(validation=validation, label_noise=share)
    assert torch.equal(noisy.train.index, clean.train.index)
    assert torch.equal(noisy.train.pixels, clean.train.pixels)
    changed = noisy.train.labels != clean.train.labels
    assert int(changed.sum()) == round(share * len(clean.train))
    for a, b in zip(parts(noisy)[1:], parts(clean)[1:], strict=True):
        assert same(a, b)


def test_noise_does_not_depend_on_how_the_split_drew(monkeypatch):
    def noise():
        clean, noisy = (load_digits(label_noise=share).train for share in (0.0, 0.3))
        return clean.index, (noisy.labels - clean.labels) % 10

    index, shift = noise()
    # The same seed with another draw of the split: other images, the same places get the shift.
    monkeypatch.setattr(
        "dotkd.data.splits.random_stream",
        lambda seed, name: random_stream(seed + (name == "data.split"), name),
    )
    other_index, other_shift = noise()
    assert not torch.equal(index, other_index)
    assert torch.equal(shift, other_shift)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": -1}, r"validation must be an integer from 0 to 1399, got -1"),
        ({"validation": 1400}, r"validation must be an integer from 0 to 1399, got 1400"),
        ({"validation": 0.1}, r"validation must be an integer from 0 to 1399, got 0.1"),
        ({"validation": None}, r"validation must be an integer from 0 to 1399, got None"),
        ({"label_noise": 1.5}, r"label_noise must be a number from 0 to 1, got 1.5"),
        ({"label_noise": 30}, r"label_noise must be a number from 0 to 1, got 30"),
        ({"label_noise": float("nan")}, r"label_noise must be a number from 0 to 1, got nan"),
        ({"seed": -1}, r"seed must be an integer of at least 0, got -1"),
        ({"seed": 0.5}, r"seed must be an integer of at least 0, got 0.5"),
    ],
)
def test_refuses_other_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_digits(**arguments)
