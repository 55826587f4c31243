"""Data sets by name, the splits drawn from them with their label noise, and the embedded digits."""

import hashlib
import importlib.util
import inspect
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dotkd.data import (
    DATA_SETS,
    DataFacts,
    add_label_noise,
    data_facts,
    data_options,
    load_data,
    load_digits,
    load_hub,
    sources,
)
from dotkd.data.sources import stratified_sample
from dotkd.errors import BadInput
from dotkd.recipe.tables import Data
from dotkd.seeding import random_stream

KNOWN = "cifar10, cifar100, digits, folder, hub, imagenet, tiny_imagenet"


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("pixels", "labels", "index"))


def test_the_names():
    assert DATA_SETS == ("cifar10", "cifar100", "digits", "folder", "hub", "imagenet", "tiny_imagenet")


def test_facts():
    assert data_facts("cifar100") == DataFacts(3, 32, 32, 100, 50_000, 10_000)
    assert data_facts("digits") == DataFacts(1, 8, 8, 10, 1400, 397)
    assert data_facts("imagenet") == DataFacts(3, 224, 224, 1000, 1_281_167, 50_000)
    assert data_facts("imagenet", "not looked at", image_size=96)[1:3] == (96, 96)
    assert data_facts("hub") == DataFacts(3, 0, 0, 0, 0, 0)


def test_the_facts_of_the_digits_are_those_of_the_data():
    splits = load_data("digits")
    facts = data_facts("digits")
    assert splits.validation is None
    assert (
        *splits.train.pixels.shape[1:],
        len(splits.train.classes),
        len(splits.train),
        len(splits.test),
    ) == facts
    assert splits.facts == load_data("digits", validation=300).facts == facts


def test_options_are_those_of_the_loaders_with_their_descriptions():
    options = data_options()
    assert set(options) == {*NAMES, *STREAM, *SHARE, *MORE}
    assert options["image_size"].data_sets == ("folder", "hub", "imagenet")
    assert options["workers"].default is None
    for name, parameter in inspect.signature(load_hub).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert options[name][:2] == (parameter.annotation, parameter.default)
            assert f"{name}: {options[name].meaning[:40]}" in load_hub.__doc__
    assert set(options) <= set(Data.model_fields), "a recipe's table lacks an option"


def test_digits_are_those_of_their_loader():
    options = {"validation": 100, "label_noise": 0.2, "seed": 5}
    for a, b in zip(load_data("digits", **options), load_digits(**options), strict=True):
        assert same(a, b)


NAMES = {
    "image_column": "i",
    "label_column": "l",
    "train_split": "a",
    "test_split": "b",
    "validation_split": "d",
    "config": "c",
}
STREAM = {"image_size": 64, "stream": True, "workers": 3, "max_image_pixels": 9}
SHARE = {"test_share": 0.5}
MORE = {"unlabelled": "u"}
OF_IMAGENET = {key: STREAM[key] for key in ("image_size", "workers", "max_image_pixels")}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar10", {}),
        ("cifar100", {}),
        ("tiny_imagenet", {}),
        ("folder", STREAM | SHARE | MORE),
        ("imagenet", OF_IMAGENET),
        ("hub", STREAM | SHARE | NAMES),
    ],
)
def test_a_loader_gets_every_argument_that_is_not_as_it_would_be_anyway(monkeypatch, name, options):
    calls = []

    def load(root, **given):
        calls.append((root, given))

    entry = sources._SOURCES[name]
    load.__signature__ = inspect.signature(entry.load)
    load.__doc__ = entry.load.__doc__
    monkeypatch.setitem(sources._SOURCES, name, entry._replace(load=load))
    split = {"validation": 1, "label_noise": 0.5, "train_images": 2, "seed": 3}
    load_data(name, root="somewhere", **split, **options)
    load_data(name, root="somewhere", image_size=0, stream=False, workers=None, config="")
    assert calls == [("somewhere", split | options), ("somewhere", {})]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "tiny_imagenet", "folder", "imagenet"])
def test_refuses_options_of_other_data_sets(name):
    reads = {"folder": {*STREAM, *SHARE, *MORE}, "imagenet": {*OF_IMAGENET}}.get(name, set())
    for key, value in (STREAM | SHARE | MORE | NAMES).items():
        if key not in reads:
            right = {"image_size": "0", "stream": "False", "workers": "None", "config": "''"}
            told = (
                rf"^{key} must be {right.get(key, '.*')} for {name}, which does not read it, got {value!r}$"
            )
            with pytest.raises(BadInput, match=told):
                load_data(name, root="somewhere", **{key: value})
    if "image_size" not in reads:
        with pytest.raises(BadInput, match=f"^image_size must be 0 for {name}, "):
            data_facts(name, image_size=8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "cifar-10"}, ("data set 'cifar-10'", "nearest: 'cifar10'", f"(known: {KNOWN})")),
        ({"name": "Digit"}, ("data set 'Digit'", "nearest: 'digits'", f"(known: {KNOWN})")),
        ({"name": ""}, ("data set ''", "nearest: 'tiny_imagenet'", f"(known: {KNOWN})")),
        ({"name": "digits", "root": "here"}, ("root must be '' for digits", "got 'here'")),
        ({"name": "digits", "train_images": 5}, ("train_images must be 0 for digits", "got 5")),
        ({"name": "digits", "validation": 1400}, ("digits: validation", "from 0 to 1399", "got 1400")),
        ({"name": "digits", "label_noise": 2}, ("digits: label_noise", "from 0 to 1", "got 2")),
        ({"name": "digits", "seed": -1}, ("digits: seed", ">= 0", "got -1")),
        ({"name": "cifar100"}, ("root must be a folder", "CIFAR-100", "'uoft-cs/cifar100'", "got ''")),
        ({"name": "imagenet"}, ("root must be the folder", "train/ and val/", "got ''")),
        ({"name": "hub"}, ("root must be a folder with parquet files", "'owner/name'", "got ''")),
        (
            {"name": "cifar100", "root": "/", "train_images": -1},
            ("cifar100: train_images", ">= 0", "got -1"),
        ),
        (
            {"name": "hub", "root": "/", "image_colum": "i"},
            ("option 'image_colum'", "nearest: 'image_column'"),
        ),
    ],
)
def test_refuses(arguments, said):
    with pytest.raises(BadInput) as caught:
        load_data(**arguments)
    assert "\n" not in str(caught.value)
    for part in said:
        assert part in str(caught.value)


def test_facts_of_an_unknown_name():
    with pytest.raises(BadInput, match="unknown data set 'mnist'"):
        data_facts("mnist")


def test_what_the_loader_refuses_passes_unchanged(tmp_path):
    with pytest.raises(BadInput, match=r"^root must hold train-\*\.parquet"):
        load_data("cifar100", root=tmp_path)


# ---------------------------------------------------------------- samples and streams

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80)
SEEDS = st.none() | st.integers(0, 2**32)


def generator(seed=0):
    return None if seed is None else torch.Generator().manual_seed(seed)


@given(labels=LABELS, seed=SEEDS, data=st.data())
def test_exact_count_without_repeats_and_every_class_within_one_of_its_share(labels, seed, data):
    count = data.draw(st.integers(0, len(labels)))
    labels = torch.tensor(labels)
    chosen = stratified_sample(labels, count, generator=generator(seed))
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == count
    sizes, got = torch.bincount(labels), torch.bincount(labels[chosen], minlength=6)
    for size, number in zip(sizes.tolist(), got.tolist(), strict=False):
        assert abs(number - size * count / len(labels)) < 1


def test_places_left_over_go_to_the_largest_remainders_then_the_lower_class():
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)  # exact shares of 4: 2.0, 1.2, 0.8
    assert torch.bincount(labels[stratified_sample(labels, 4)]).tolist() == [2, 1, 1]
    tied = torch.arange(4).repeat(3)  # exact shares of 2: one half each
    assert tied[stratified_sample(tied, 2)].tolist() == [0, 1]


def test_even_distances_without_a_generator():
    assert stratified_sample(torch.zeros(9).long(), 3).tolist() == [1, 4, 7]
    assert stratified_sample(torch.zeros(4).long(), 4).tolist() == [0, 1, 2, 3]


def test_a_generator_draws_every_member_alike():
    labels, stream, hits = torch.zeros(10).long(), generator(0), torch.zeros(10)
    for _ in range(2000):
        hits[stratified_sample(labels, 3, generator=stream)] += 1
    # Mean 600, standard deviation 20.5: five of them on either side.
    assert (hits - 600).abs().max() < 103


def test_nothing_to_choose_from():
    assert stratified_sample(torch.empty(0, dtype=torch.int64), 0).tolist() == []


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        (torch.zeros(3), 1, r"labels must be a tensor of int64 \[N\], got .*float32 \[3\]"),
        (torch.arange(3) - 1, 1, r"labels must be >= 0, got -1 to 1"),
        (torch.arange(3), 4, r"count must be an integer from 0 to 3, got 4"),
        (torch.arange(3), -1, r"count must be an integer from 0 to 3, got -1"),
        (torch.arange(3), 0.5, r"count must be an integer from 0 to 3, got 0.5"),
    ],
)
def test_a_sample_refuses_other_arguments(labels, count, message):
    with pytest.raises(ValueError, match=message):
        stratified_sample(labels, count)


def test_streams_differ_by_seed_and_by_name_only():
    start = random_stream(0, "a").get_state()
    assert torch.equal(start, random_stream(0, "a").get_state())
    assert not torch.equal(start, random_stream(1, "a").get_state())
    assert not torch.equal(start, random_stream(0, "b").get_state())


def test_streams_start_where_they_always_did():
    assert random_stream(0, "data.split").initial_seed() == 7397789075183273628
    assert random_stream(7, "data.label_noise").initial_seed() == 7007320197443199497


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "0"])
def test_streams_refuse_other_seeds(seed):
    with pytest.raises(ValueError, match=rf"seed must be an integer >= 0, got {seed!r}"):
        random_stream(seed, "a")


# ---------------------------------------------------------------- label noise


@given(
    labels=st.lists(st.integers(0, 4), max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_count_is_exact_and_the_input_untouched(labels, share, seed):
    labels = torch.tensor(labels, dtype=torch.int64)
    before = labels.clone()
    noisy = add_label_noise(labels, share, num_classes=5, generator=generator(seed))
    assert torch.equal(labels, before)
    assert int((noisy != labels).sum()) == round(share * len(labels))
    assert ((noisy >= 0) & (noisy < 5)).all()


def test_share_zero_is_the_identity_in_a_new_tensor():
    labels = torch.arange(10)
    noisy = add_label_noise(labels, 0.0, num_classes=10, generator=generator())
    assert torch.equal(noisy, labels)
    assert noisy.data_ptr() != labels.data_ptr()


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_share_one_leaves_no_label_as_it_was(num_classes):
    labels = torch.arange(1000) % num_classes
    noisy = add_label_noise(labels, 1.0, num_classes=num_classes, generator=generator())
    assert (noisy != labels).all()


@pytest.mark.parametrize("true_class", [0, 4, 9])
def test_wrong_classes_are_equally_likely(true_class):
    labels = torch.full((90_000,), true_class)
    noisy = add_label_noise(labels, 1.0, num_classes=10, generator=generator(1))
    counts = torch.bincount(noisy, minlength=10)
    assert counts[true_class] == 0
    wrong = torch.cat([counts[:true_class], counts[true_class + 1 :]]).double()
    chi_square = ((wrong - 10_000).square() / 10_000).sum()
    assert chi_square < 26.1  # 8 degrees of freedom, p = 0.001


def test_every_label_is_equally_likely_to_be_replaced():
    labels, stream = torch.zeros(20, dtype=torch.int64), generator(2)
    hits = sum(add_label_noise(labels, 0.25, num_classes=3, generator=stream) != 0 for _ in range(4000))
    # Mean 1000, standard deviation 27: five of them on either side.
    assert (hits - 1000).abs().max() < 137


def test_noise_is_nested_over_shares():
    labels = torch.arange(200) % 10
    few, many = (
        add_label_noise(labels, share, num_classes=10, generator=generator()) for share in (0.2, 0.4)
    )
    wrong = few != labels
    assert torch.equal(many[wrong], few[wrong])
    assert int((many != labels).sum()) == 80


def test_reproducible_by_generator_which_moves_on_alike_for_every_share():
    labels, first, second = torch.arange(50) % 10, generator(), generator()
    a = add_label_noise(labels, 0.5, num_classes=10, generator=first)
    add_label_noise(labels, 0.0, num_classes=10, generator=second)
    assert torch.equal(first.get_state(), second.get_state())
    assert torch.equal(a, add_label_noise(labels, 0.5, num_classes=10, generator=generator()))
    assert not torch.equal(a, add_label_noise(labels, 0.5, num_classes=10, generator=first))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_on_a_gpu_get_the_same_noise():
    labels = torch.arange(50) % 10
    here = add_label_noise(labels, 0.5, num_classes=10, generator=generator())
    there = add_label_noise(labels.cuda(), 0.5, num_classes=10, generator=generator())
    assert there.is_cuda
    assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize(
    ("labels", "share", "num_classes", "message"),
    [
        (torch.zeros(3), 0.5, 3, r"labels must be a tensor of int64 \[N\], got .*float32 \[3\]"),
        (torch.arange(4), 0.5, 3, r"labels must lie from 0 to 2 \(num_classes=3\), got 0 to 3"),
        (torch.arange(3) - 1, 0.5, 3, r"labels must lie from 0 to 2 .*, got -1 to 1"),
        (torch.arange(3), -0.1, 3, r"share must be a number from 0 to 1, got -0.1"),
        (torch.arange(3), 30, 3, r"share must be a number from 0 to 1, got 30"),
        (torch.arange(3), float("nan"), 3, r"share must be a number from 0 to 1, got nan"),
        (torch.arange(3), "0.3", 3, r"share must be a number from 0 to 1, got '0.3'"),
        (torch.arange(3), True, 3, r"share must be a number from 0 to 1, got True"),
        (torch.zeros(3).long(), 0.5, 1, r"num_classes must be an integer >= 2, got 1"),
    ],
)
def test_noise_refuses_other_arguments(labels, share, num_classes, message):
    with pytest.raises(ValueError, match=message):
        add_label_noise(labels, share, num_classes=num_classes, generator=generator())


# ---------------------------------------------------------------- digits

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
def test_digits_are_reproducible_by_seed_and_different_between_seeds(noise):
    first, again, other = (load_digits(label_noise=noise, seed=seed) for seed in (3, 3, 4))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert numbers(first.validation) != numbers(other.validation)


def test_two_calls_share_no_memory():
    load_digits().train.pixels.zero_()
    assert load_digits().train.pixels.any()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.3333, 1.0])
@pytest.mark.parametrize("validation", [0, 200])
def test_noise_of_digits_is_exact_and_in_the_training_labels_only(share, validation):
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
        "dotkd.data.sources.random_stream",
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
        ({"seed": -1}, r"seed must be an integer >= 0, got -1"),
        ({"seed": 0.5}, r"seed must be an integer >= 0, got 0.5"),
    ],
)
def test_digits_refuse_other_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_digits(**arguments)
