"""Paths with spaces, umlauts and the home folder, wherever a recipe or the command line takes one."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dotkd.runs import STUDENT

RECIPE = """
extends = "~/Größen.toml"
[data]
name = "folder"
root = "~/Fotos für alle"
validation = 0
batch_size = 4
[student]
model = "small/mlp16"
"""
BELOW = """
name = "Größe & Länge"
optimizer = {name = "sgd", lr = 0.1}
schedule = {name = "constant", epochs = 1}
"""
CLASSES = ("Käfer klein", "木's")


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "Zu Hause bei Müllers"
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in CLASSES:
            folder = home / "Fotos für alle" / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"Bild {number}.png")
    (home / "Größen.toml").write_text(BELOW, encoding="utf-8")
    (home / "Rezept ü.toml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DOTKD_CACHE", "~/Zwischenlager ä")
    monkeypatch.chdir(tmp_path)
    return home


@pytest.mark.slow
def test_every_verb_takes_such_paths(home, dotkd):
    assert dotkd("train", "~/Rezept ü.toml", "--output=~/Lauf ö 1").code == 0
    student = home / "Lauf ö 1" / STUDENT
    assert student.is_file()
    assert list((home / "Zwischenlager ä").iterdir())
    ended = dotkd(
        *("train", "~/Rezept ü.toml", "teacher.checkpoint=~/Lauf ö 1/student.safetensors"),
        *("method.name=kd", "teacher.verify=false", "--output", "~/Lauf ö 2"),
    )
    assert ended.code == 0, ended.err
    ended = dotkd("evaluate", "~/Lauf ö 1", "--root", "~/Fotos für alle")
    assert ended.code == 0, ended.err
    assert "8 test images" in ended.out
    assert dotkd("export", "~/Lauf ö 2", "--output", "~/Schüler ß.safetensors").code == 0
    assert (home / "Schüler ß.safetensors").is_file()
    assert dotkd("analyze", "~/Lauf ö 2", "~/Lauf ö 1", "--parts", "quality", "--images", "16").code == 0
    assert (home / "Lauf ö 1" / "analysis.json").is_file()
    assert dotkd("report", "~/Lauf ö 2").code == 0
    assert not any(path.name.startswith("~") for path in home.parent.iterdir())


def test_a_home_folder_that_does_not_exist(home, dotkd):
    ended = dotkd("train", "~nobody-here/r.toml")
    assert ended.code == 2
    assert ended.err.startswith("dotkd: no recipe '~nobody-here/r.toml'")


@pytest.mark.slow
def test_what_is_passed_over_is_one_line(home):
    (home / "Fotos für alle" / "train" / CLASSES[0] / "Notiz ü.txt").touch()
    command = [sys.executable, "-m", "dotkd", "train", "~/Rezept ü.toml", "--output=~/Lauf"]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=os.environ)
    (line,) = ended.stderr.splitlines()
    photos = home / "Fotos für alle"
    assert line.startswith(
        f"dotkd: {photos}: 1 entry is passed over, such as train/{CLASSES[0]}/Notiz ü.txt: "
    )


def test_a_class_whose_name_is_no_utf_8(home, dotkd):
    for part in ("train", "test"):
        folder = os.fsencode(home / "Fotos für alle" / part)
        os.rename(folder + b"/" + os.fsencode(CLASSES[0]), folder + b"/K\xe4fer")  # noqa: PTH104
    ended = dotkd("train", "~/Rezept ü.toml")
    assert ended.code == 2
    assert r"the name of the folder 'K\udce4fer' is no UTF-8: rename it" in ended.err
