"""Streamed images: the same batches whoever decodes them, and no process that stays behind."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dotkd.data import (
    ImageData,
    ImageFiles,
    RandomResizedCrop,
    StreamedImages,
    crop_flip,
    load_folder,
    streamed,
)
from dotkd.data.decode import centre_view
from dotkd.errors import BadInput, RunFailed

COUNT, SIZE = 75, 16  # three parts for the workers
# Worker processes take a second to start.
ONE, TWO = (pytest.param(count, marks=pytest.mark.slow) for count in (1, 2))


def picture(seed):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(18, 60, 2)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    names = [f"{number}.png".encode() for number in range(COUNT)]
    for number, name in enumerate(names):
        picture(number).save(folder / name.decode())
    return ImageFiles(folder, names)


@pytest.fixture(autouse=True)
def no_process_stays():
    yield
    assert multiprocessing.active_children() == []


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(files, workers=0, **changes):
    parts = {"labels": torch.arange(COUNT) % 3, "classes": ("a", "b", "c"), "size": SIZE}
    return StreamedImages(files, **(parts | changes), workers=workers)


def middle(number):
    return np.asarray(centre_view(picture(number), SIZE)).transpose(2, 0, 1)


def in_memory(files):
    pixels = np.stack([middle(number) for number in range(COUNT)])
    return ImageData(torch.from_numpy(pixels), torch.arange(COUNT) % 3, ("a", "b", "c"))


def same(a, b):
    views = a.view is b.view or torch.equal(a.view, b.view)
    return views and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "labels", "index")
    )


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}])
def test_batches_are_those_of_the_same_images_in_memory(files, seed, options):
    draws = [None if seed is None else generator(seed) for _ in range(2)]
    decoded = list(make(files).batches(20, generator=draws[0], **options))
    memory = list(in_memory(files).batches(20, generator=draws[1], **options))
    assert all(same(a, b) for a, b in zip(decoded, memory, strict=True))
    assert seed is None or torch.equal(draws[0].get_state(), draws[1].get_state())


@pytest.mark.parametrize("workers", [1, TWO])
def test_the_number_of_workers_changes_nothing(files, workers):
    def epochs(workers):
        order, views, change = generator(1), generator(2), generator(3)

        def then(pixels):
            return crop_flip(pixels, generator=change, pad=1)

        data, crop = make(files, workers), RandomResizedCrop(views, then=then)
        batches = [batch for _ in range(2) for batch in data.batches(40, generator=order, augment=crop)]
        return batches, [stream.get_state() for stream in (order, views, change)]

    (here, states), (there, others) = epochs(0), epochs(workers)
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(states, others, strict=True))
    assert not torch.equal(here[0].images, here[2].images)


def test_random_views_are_of_the_whole_image_and_have_no_number(files):
    crop, again = RandomResizedCrop(generator(7)), RandomResizedCrop(generator(7))
    (batch,) = make(files).batches(COUNT, generator=generator(), augment=crop)
    numbers = again.draw(COUNT, again.epoch()).numpy()
    for image, number, row in zip(batch.images, batch.index.tolist(), numbers, strict=True):
        view = np.asarray(again.view(picture(number), SIZE, row)).transpose(2, 0, 1)
        assert np.array_equal((image * 255).round().byte().numpy(), view)
    assert batch.view is None
    assert torch.equal(batch.labels, batch.index % 3)


def test_a_function_of_pixels_changes_the_middle_views(files):
    order, change = [generator(1), generator(1)], [generator(2), generator(2)]

    def views(which):
        return lambda pixels: crop_flip(pixels, generator=change[which], pad=2)

    decoded = make(files).batches(30, generator=order[0], augment=views(0))
    memory = in_memory(files).batches(30, generator=order[1], augment=views(1))
    for a, b in zip(decoded, memory, strict=True):
        assert same(a, b)
        assert a.view is not None


@pytest.mark.parametrize("workers", [0, ONE])
def test_an_epoch_read_in_part_leaves_the_generators_in_the_same_place(files, workers):
    states = []
    for read in (0, 1, 4):
        order, views = generator(1), generator(2)
        batches = make(files, workers).batches(20, generator=order, augment=RandomResizedCrop(views))
        for _ in range(read):
            next(batches)
        batches.close()
        states.append((order.get_state(), views.get_state()))
    assert all(torch.equal(a, b) for state in states for a, b in zip(state, states[0], strict=True))


def test_positions_subsets_labels_and_sample_numbers(files):
    data = make(files)
    part = data.subset([50, 3, 9]).subset(torch.tensor([2, 0]))
    assert part.index.tolist() == [9, 50]
    batch = part.batch([1, 1, 0])
    assert batch.index.tolist() == [50, 50, 9]
    assert batch.labels.tolist() == [2, 2, 0]
    assert np.array_equal((batch.images[2] * 255).round().byte().numpy(), middle(9))
    for other in (part.with_labels(torch.tensor([1, 1])), replace(part, labels=torch.tensor([1, 1]))):
        assert other.labels.tolist() == [1, 1]
        assert torch.equal(other.batch([0, 1]).images, part.batch([0, 1]).images)
    assert repr(part) == "StreamedImages(2 images of [3, 16, 16], 3 classes)"
    assert (len(part), part.device, part.to("cpu").labels is part.labels) == (2, torch.device("cpu"), True)
    again = pickle.loads(pickle.dumps(part))
    assert torch.equal(again.batch([0]).images, part.batch([0]).images)


def test_the_checksum_knows_files_labels_and_sample_numbers(tmp_path):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")

    def checksum(positions=(0, 1, 2), labels=(0, 1, 2)):
        files = ImageFiles(tmp_path, [f"{number}.png".encode() for number in range(4)])
        data = StreamedImages(files, torch.arange(4) % 3, ("a", "b", "c"), SIZE)
        return data.subset(list(positions)).with_labels(torch.tensor(labels)).checksum()

    first = checksum()
    assert first == checksum()
    assert len({first, checksum(labels=(0, 2, 2)), checksum(positions=(0, 1, 3))}) == 3
    before = (tmp_path / "3.png").stat()
    os.utime(tmp_path / "3.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert checksum() != first
    data = in_memory(None)
    assert data.checksum() == data.to("cpu").checksum() != data.with_labels(1 - data.labels % 2).checksum()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_equal_those_on_the_cpu(files, workers):
    for here, there in zip(
        make(files).batches(30, generator=generator(), augment=RandomResizedCrop(generator(1))),
        make(files, workers)
        .to("cuda")
        .batches(30, generator=generator(), augment=RandomResizedCrop(generator(1))),
        strict=True,
    ):
        assert there.images.is_cuda
        assert there.labels.is_cuda
        assert same(here, there.to("cpu"))


# ---------------------------------------------------------------- splits


def test_validation_and_label_noise_over_streamed_images(tmp_path):
    for part, count in (("train", 10), ("test", 2)):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                picture(number).save(tmp_path / part / name / f"{number}.png")
    options = {"image_size": SIZE, "stream": True, "workers": 0, "validation": 4, "seed": 2}
    clean, noisy = (load_folder(tmp_path, **options, label_noise=share) for share in (0.0, 0.25))
    train, validation, test = noisy
    assert [len(part) for part in noisy] == [16, 4, 4]
    assert sorted([*train.index.tolist(), *validation.index.tolist()]) == list(range(20))
    assert torch.equal(train.index, clean.train.index)
    assert int((train.labels != clean.train.labels).sum()) == 4
    assert torch.equal(validation.labels, validation.index // 10)
    assert torch.equal(next(train.batches(16)).labels, train.labels)
    memory = load_folder(tmp_path, image_size=SIZE, validation=4, seed=2)
    for encoded, stored in zip(clean, memory, strict=True):
        assert all(same(a, b) for a, b in zip(encoded.batches(7), stored.batches(7), strict=True))
    assert clean.facts == memory.facts == (3, SIZE, SIZE, 2, 20, 4)
    assert test.classes == ("ant", "bee")


# ---------------------------------------------------------------- what goes wrong


@pytest.fixture
def broken(tmp_path):
    names = [f"{number}.png".encode() for number in range(COUNT)]
    for number, name in enumerate(names):
        picture(number).save(tmp_path / name.decode())
    path = tmp_path / "40.png"
    path.write_bytes(path.read_bytes()[:90])
    return ImageFiles(tmp_path, names), path


@pytest.mark.parametrize("workers", [0, TWO])
def test_an_unreadable_image_is_one_line(broken, workers):
    files, path = broken
    batches = make(files, workers).batches(32)
    next(batches)
    with pytest.raises(BadInput) as caught:
        next(batches)
    assert str(caught.value) == f"{path} is no image that can be decoded (PNG, JPEG, WebP, BMP, TIFF or PPM)"
    assert multiprocessing.active_children() == []
    path.unlink()
    with pytest.raises(BadInput, match=r"40\.png cannot be read: No such file or directory$"):
        make(files).batch([40])


@pytest.mark.slow
def test_workers_end_when_an_epoch_is_broken_off(files):
    batches = make(files, 2).batches(16)
    assert multiprocessing.active_children() == []  # not before they are needed
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert multiprocessing.active_children() == []

    def fail(pixels):
        raise ArithmeticError

    caught = None
    try:
        list(make(files, 2).batches(16, augment=fail))
    except ArithmeticError as error:
        caught = error  # and with it the frames of the traceback
    assert caught is not None
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly\nmore"),
            "DataLoader worker (pid(s) 7) exited unexpectedly",
        ),
        (EOFError(), "EOFError"),
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
    ],
)
def test_a_worker_that_dies_is_told(files, monkeypatch, error, reason):
    def dying(*_, **__):
        raise error
        yield

    monkeypatch.setattr(streamed, "DataLoader", dying)
    with pytest.raises(RunFailed) as caught:
        next(make(files, 2).batches(16))
    told = str(caught.value)
    assert "\n" not in told
    assert f"worker that decodes images has died ({reason})" in told
    assert "memory" in told
    assert "fewer workers" in told
    assert caught.value.__context__ is None


TRAINING = """
import multiprocessing, os, signal, sys
import torch
from pathlib import Path
from dotkd.data import ImageFiles, StreamedImages

if __name__ == "__main__":
    names = [f"{number}.png".encode() for number in range(75)]
    files = ImageFiles(Path(sys.argv[1]), names)
    batches = StreamedImages(files, torch.zeros(75).long(), ("a",), 16, workers=2).batches(1)
    next(batches)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see other processes")
def test_workers_end_when_the_training_process_is_killed(files, tmp_path):
    (tmp_path / "training.py").write_text(TRAINING, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "training.py"), str(Path(files.key(0)).parent)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    pids = done.stdout.split()
    assert len(pids) == 2
    ends = time.monotonic() + 20
    while any(map(running, pids)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(map(running, pids))


@pytest.mark.slow
def test_a_worker_that_is_killed(files):
    batches = make(files, 2).batches(1)  # of which only a few are decoded ahead
    next(batches)
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    with pytest.raises(RunFailed, match="worker that decodes images has died"):
        list(batches)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("workers", "error"), [(2, RuntimeError("else")), (0, EOFError("else")), (2, ValueError("else"))]
)
def test_other_errors_pass(files, monkeypatch, workers, error):
    def failing(*_, **__):
        raise error
        yield

    monkeypatch.setattr(streamed, "DataLoader", failing)
    with pytest.raises(type(error), match=r"^else$"):
        next(make(files, workers).batches(16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, r"size must be an integer >= 1, got 0"),
        ({"workers": -1}, r"workers must be an integer >= 0, got -1"),
        ({"labels": torch.arange(COUNT)}, r"labels must lie from 0 to 2 \(3 classes\), got 0 to 74"),
        ({"labels": torch.zeros(4).long()}, r"labels must be a tensor of int64 \[75\], got .* \[4\]"),
        (
            {"index": torch.arange(COUNT) + 1},
            r"index must lie from 0 to 74 \(75 images in the store\), got 1 to 75",
        ),
        (
            {"index": torch.zeros(0).long(), "labels": torch.zeros(0).long()},
            r"store must hold at least one image, got none",
        ),
        ({"classes": ("a", "a", "b")}, r"classes must be all different, got a more than once"),
    ],
)
def test_refuses_other_contents(files, changes, message):
    with pytest.raises(ValueError, match=message):
        make(files, **({"workers": 0} | changes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 76, "drop_last": True}, r"batch_size must be at most 75 with drop_last, .*, got 76"),
        ({"batch_size": 4, "augment": "crop"}, r"augment must be a RandomResizedCrop or .*, got 'crop'"),
    ],
)
def test_refuses_other_batches_before_the_first(files, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(files).batches(**arguments)


def test_images_in_memory_refuse_what_reads_files():
    with pytest.raises(
        ValueError, match=r"augment must be a function of pixels for images in memory, got Rand"
    ):
        in_memory(None).batches(4, augment=RandomResizedCrop(generator()))
