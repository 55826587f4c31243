"""Rows come back as they were written or not at all, whatever becomes of the file and of its writers."""

import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dotkd.errors import BadInput
from dotkd.train.cache_rows import FileRows, MemoryRows

KEY = {"teacher": "0123", "views": 18}
COUNT, WIDTH = 40, 3


def numbers(*values):
    return np.array(values, dtype=np.int64)


def row_of(number, width=WIDTH):
    """What stands for a teacher: a row that follows from its number."""
    return np.sin(np.arange(width) + 7.0 * number).astype(np.float32)


def rows_of(chosen, width=WIDTH):
    return np.stack([row_of(number, width) for number in chosen])


def opened(path, key=KEY, count=COUNT, width=WIDTH):
    return FileRows(path, key, count, width, writes=count)


def made(kind, folder):
    return MemoryRows(COUNT, WIDTH, COUNT) if kind == "memory" else opened(folder / "x.cache")


def known(rows):
    """Check that what is known of all rows is right, and return their numbers."""
    found, there = rows.read(np.arange(COUNT))
    assert np.array_equal(found[there], rows_of(range(COUNT))[there])
    return np.flatnonzero(there).tolist()


# ---------------------------------------------------------------- what was written comes back


@pytest.mark.parametrize("kind", ["memory", "file"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.sets(st.integers(0, COUNT - 1), min_size=1), max_size=6))
def test_exactly_what_was_written_is_known(kind, tmp_path_factory, batches):
    rows, written = made(kind, tmp_path_factory.mktemp("rows")), set()
    for batch in batches:  # some rows come twice
        chosen = numbers(*batch)
        rows.write(chosen, rows_of(chosen))
        written |= batch
        assert known(rows) == sorted(written)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_bits_that_are_no_usual_numbers_come_back(kind, tmp_path):
    rows, odd = made(kind, tmp_path), np.array([[np.nan, -np.inf, -0.0], [0.0, 1e-45, 0.0]], dtype=np.float32)
    rows.write(numbers(5, 6), odd)
    found, there = rows.read(numbers(6, 5))
    assert there.all()
    assert found[::-1].tobytes() == odd.tobytes()


def test_a_row_of_zeros_is_not_a_hole(tmp_path):
    rows = opened(tmp_path / "x")
    rows.write(numbers(3), np.zeros((1, WIDTH), dtype=np.float32))
    assert rows.read(numbers(2, 3, 4))[1].tolist() == [False, True, False]


def test_two_that_are_open_at_once_see_what_the_other_wrote(tmp_path):
    one, other = opened(tmp_path / "x"), opened(tmp_path / "x")
    one.write(numbers(1, 2), rows_of([1, 2]))
    other.write(numbers(2, 3), rows_of([2, 3]))
    assert known(one) == known(other) == known(opened(tmp_path / "x")) == [1, 2, 3]


def test_a_file_takes_what_was_written_not_its_length(tmp_path):
    rows = FileRows(tmp_path / "x", KEY, 10**6, 100, writes=10)
    rows.write(numbers(999_999), rows_of([999_999], 100))
    assert (tmp_path / "x").stat().st_size > 400e6
    assert (tmp_path / "x").stat().st_blocks * 512 < 1e6


# ---------------------------------------------------------------- what was not wholly written is missing


def test_a_row_with_any_bit_turned_is_missing_and_the_others_are_there(tmp_path):
    path, start = tmp_path / "x", 4096
    rows, size = opened(path), 8 + 4 * WIDTH
    rows.write(numbers(0, 1, 2), rows_of([0, 1, 2]))
    whole = path.read_bytes()
    for place in range(start + size, start + 2 * size):
        for bit in range(8):
            if place == start + size and bit == 0:
                continue  # set in every check: it says only that there is one
            broken = bytearray(whole)
            broken[place] ^= 1 << bit
            path.write_bytes(broken)
            assert known(opened(path)) == [0, 2], (place - start - size, bit)


def test_a_row_at_the_place_of_another_is_missing(tmp_path):
    path, size = tmp_path / "x", 8 + 4 * WIDTH
    opened(path).write(numbers(0), rows_of([0]))
    whole = bytearray(path.read_bytes())
    whole[4096 + size : 4096 + 2 * size] = whole[4096 : 4096 + size]
    path.write_bytes(whole)
    assert known(opened(path)) == [0]


def test_a_file_cut_off_at_any_length_has_the_rows_in_front_of_the_cut(tmp_path):
    path, size = tmp_path / "x", 8 + 4 * WIDTH
    opened(path).write(np.arange(4), rows_of(range(4)))
    whole = path.read_bytes()
    for length in [0, 1, 30, 100, 4095, *range(4096, 4096 + 4 * size + 1, 3)]:
        path.write_bytes(whole[:length])
        rows = opened(path)
        assert known(rows) == list(range(max(length - 4096, 0) // size)), length
        rows.write(numbers(3), rows_of([3]))
        assert 3 in known(rows)


WRITER = """
import sys
import numpy as np
from pathlib import Path
from dotkd.train.cache_rows import FileRows

count, width, seed = 3000, 2500, int(sys.argv[2])
rows = FileRows(Path(sys.argv[1]), {"of": "writers"}, count, width, writes=1)
order = np.random.default_rng(seed).permutation(count)
for start in range(0, count, 50):
    sys.stdin.read(1)  # a byte allows a batch
    chosen = order[start : start + 50]
    rows.write(chosen, np.sin(np.arange(width) + 7.0 * chosen[:, None]).astype(np.float32))
    print("wrote", flush=True)
"""


@pytest.mark.slow
@pytest.mark.processes
def test_two_writers_killed_with_9_again_and_again_leave_whole_rows_only(tmp_path):
    path, seen = tmp_path / "x", 0
    reader = FileRows(path, {"of": "writers"}, 3000, 2500, writes=1)
    for attempt in range(4):
        command = [sys.executable, "-c", WRITER, path]
        writers = [
            subprocess.Popen([*command, str(seed)], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for seed in (attempt, attempt + 100)
        ]
        for writer in writers:  # more batches than are waited for: the kill may fall into a write
            writer.stdin.write(b"x" * (attempt + 2))
        for writer in writers:
            assert writer.stdout.readline() == b"wrote\n"
        for writer in writers:
            writer.kill()
            writer.stdin.close()
            writer.stdout.close()
            assert writer.wait() == -signal.SIGKILL
        found, there = reader.read(np.arange(3000))
        assert np.array_equal(found[there], rows_of(np.flatnonzero(there), 2500))
        assert there.sum() >= seen, "what was written stays"
        seen = there.sum()
    assert 0 < seen < 3000, "the writers were to be killed on the way"


# ---------------------------------------------------------------- what is refused


def test_a_file_of_another_key_is_refused_with_what_differs_and_left_as_it_is(tmp_path):
    path = tmp_path / "x"
    opened(path).write(numbers(1), rows_of([1]))
    before = path.read_bytes()
    with pytest.raises(
        BadInput, match=r"differs in teacher \('0123', and here '9'\), bits \(None, and here 2"
    ):
        opened(path, {"teacher": "9", "views": 18, "bits": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"PK\3\4 something else", "not a cache of a teacher's outputs, or one of another version"),
        (b"dotkd teacher cache 2\n{}", "not a cache of a teacher's outputs, or one of another version"),
        (b"dotkd teacher cache 1\n[3]", "broken: its first line does not say what it is of"),
        (b"dotkd teacher cache 1\n{'__import__'}", "broken: its first line does not say what it is of"),
        (b"dotkd teacher cache 1\n" + b"\xff" * 9000, "broken: its first line does not say what it is of"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(content, text, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadInput, match=text):
        opened(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == content


def test_a_file_that_is_too_long_is_refused(tmp_path):
    opened(tmp_path / "x")
    with (tmp_path / "x").open("ab") as file:
        file.write(b"more")
    with pytest.raises(BadInput, match=r"broken: it has 4900 bytes, and 4896 are right"):
        opened(tmp_path / "x")


def test_a_folder_in_the_way_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(BadInput, match="x: cannot be used: Is a directory"):
        opened(tmp_path / "x")


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("dotkd.train.cache_rows.shutil.disk_usage", lambda _: usage)
    with pytest.raises(BadInput, match=r"may grow by 0\.38 GiB in this run, and 0\.00 GiB are free there"):
        FileRows(tmp_path / "x", KEY, 10**6, 100, writes=10**6)
    rows = FileRows(tmp_path / "y", KEY, 10**6, 100, writes=100)  # a short run needs less
    assert not rows.read(numbers(1))[1].any()


def test_a_disk_that_becomes_full_is_told_once_and_what_is_known_stays(tmp_path):
    rows = opened(tmp_path / "x")
    rows.write(numbers(1), rows_of([1]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 + 10 * 20 + 9, before[1]))
        with pytest.warns(RuntimeWarning, match="File too large: the run goes on and remembers no more"):
            rows.write(numbers(9, 20), rows_of([9, 20]))
        rows.write(numbers(2), rows_of([2]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert known(rows) == known(opened(tmp_path / "x")) == [1, 9]


def test_memory_that_is_not_there_is_refused():
    with pytest.raises(BadInput, match=r"may take \d+\.\d+ GiB of memory in this run, and .* are free"):
        MemoryRows(10, 1000, 10**11)


def test_memory_is_taken_as_it_is_used():
    def resident():
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * resource.getpagesize()

    before = resident()
    rows = MemoryRows(5_000_000, 100, 2_000_000)
    chosen = np.arange(0, 5_000_000, 5000)
    rows.write(chosen, np.ones((1000, 100), dtype=np.float32))
    assert rows.read(chosen)[1].all()
    assert resident() - before < 50e6, "800 MB would be the whole"
