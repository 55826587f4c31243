"""The two trainers that benchmarks compare, on the same random images and with the same random weights.

:class:`Ours` is what ``dotkd train`` does: a run, and epochs of ``dotkd.train.step``; only the files of
a data set are not read. :func:`published` is the trainer of :mod:`published`.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from published import (
    DISTILL_WEIGHT,
    MEAN,
    STD,
    TASK_WEIGHT,
    TEMPERATURE,
    OneByOne,
    PublishedTrainer,
    channels_behind,
)
from torch import nn

from dotkd.data import ImageData, Splits
from dotkd.models import create_model
from dotkd.recipe import Recipe
from dotkd.recipe.load import make_recipe
from dotkd.train.build import build_run
from dotkd.train.step import compile_step, train_epoch

CLASSES, SIDE = 100, 32
LR, WEIGHT_DECAY = 0.01, 5e-4
DOT, KD = {"name": "dot", "delta": 0.075}, {"name": "sgd"}  # optimizers of a recipe


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Args:
        teacher: Name of a network.
        student: Likewise.
        batch: Images in a step.
        images: How many there are; an epoch goes through them once.
    """

    teacher: str = "resnet32x4"
    student: str = "resnet8x4"
    batch: int = 64
    images: int = 64

    @cached_property
    def data(self) -> ImageData:
        """Random images of CIFAR's size with random labels."""
        draws = torch.Generator().manual_seed(0)
        shape = (self.images, 3, SIDE, SIDE)
        pixels = torch.randint(256, shape, generator=draws, dtype=torch.uint8)
        labels = torch.randint(CLASSES, (self.images,), generator=draws)
        return ImageData(pixels, labels, [f"class {number}" for number in range(CLASSES)])

    @cached_property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Teacher and student with random weights; the teacher's batch norms know its activations."""
        torch.manual_seed(0)
        teacher, student = (create_model(name, CLASSES) for name in (self.teacher, self.student))
        norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the statistics of one batch are all there is
        with torch.no_grad():
            teacher((self.data.batch(torch.arange(min(16, self.images))).images - 0.5) * 4)
        for norm in norms:
            norm.momentum = 0.1
        return teacher.eval(), student

    def recipe(self, teacher: Path, optimizer: Mapping[str, Any], run: Mapping[str, Any]) -> Recipe:
        """Write the recipe of the published setting for these networks.

        Args:
            teacher: A file with the teacher's weights.
            optimizer: Keys of ``[optimizer]`` beside those that all have.
            run: Keys of ``[run]``; the device is the CPU.

        Returns:
            The recipe.
        """
        normalisation = {"mean": list(MEAN), "std": list(STD)}
        tables = {
            "name": "benchmark",
            "data": {
                "name": "cifar100",
                "root": ".",
                "validation": 0,
                "augment": ["crop-flip"],
                "batch_size": self.batch,
            },
            "student": {"model": self.student, **normalisation},
            "teacher": {"model": self.teacher, "checkpoint": str(teacher), **normalisation},
            "method": {
                "name": "kd",
                "temperature": TEMPERATURE,
                "task_weight": TASK_WEIGHT,
                "distill_weight": DISTILL_WEIGHT,
            },
            "optimizer": {"lr": LR, "momentum": 0.9, "weight_decay": WEIGHT_DECAY, **optimizer},
            "schedule": {"name": "constant", "epochs": 1000},
            "run": {"device": "cpu", **run},
        }
        return make_recipe(tables, "benchmark")


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Let the command line name other networks and another batch."""
    parser.add_argument("--teacher", default=Setting.teacher, help="another network")
    parser.add_argument("--student", default=Setting.student, help="another network")
    parser.add_argument("--batch", type=int, default=Setting.batch, help="images in a step")


def pair_of(options: argparse.Namespace) -> Setting:
    """Return what :func:`add_pair` let be named, an epoch being one step."""
    return Setting(options.teacher, options.student, options.batch, options.batch)


@contextmanager
def teacher_file(setting: Setting) -> Iterator[Path]:
    """Write the teacher's weights to a file for as long as sessions are made."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.pth"
        torch.save(setting.networks[0].state_dict(), path)
        yield path


class Ours:
    """A training run of dotkd.

    Args:
        setting: What is trained.
        optimizer: Keys of the recipe's ``[optimizer]``.
        run: Keys of its ``[run]``.
        replay: Draw the same order and the same views in every epoch, so that from the second one on a
            teacher cache knows all of them.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        optimizer: Mapping[str, Any] = DOT,
        run: Mapping[str, Any] = MappingProxyType({}),
        replay: bool = False,
    ) -> None:
        data = setting.data
        with teacher_file(setting) as path:
            recipe = setting.recipe(path, optimizer, run)
            splits = Splits(data, None, data)
            with mock.patch("dotkd.train.build.build_data", return_value=splits):
                self.session = build_run(recipe, path)
        compile_step(self.session)
        self.replay = replay
        self.metrics: dict[str, Any] = {}

    def epoch(self) -> None:
        """Train for an epoch."""
        if self.replay:
            self.session.order.manual_seed(0)
            self.session.views.manual_seed(0)
        self.metrics = train_epoch(self.session)


Trainer = Ours | PublishedTrainer


def published(setting: Setting) -> PublishedTrainer:
    """Return the published trainer."""
    teacher, student = copy.deepcopy(setting.networks)
    images = OneByOne(channels_behind(setting.data.pixels), setting.data.labels.tolist())
    return PublishedTrainer(teacher, student, images, batch=setting.batch, lr=LR, weight_decay=WEIGHT_DECAY)
