"""Diagnostics of networks that torch does not differentiate in every way: they never end a run."""

import json

import pytest
import torch

from dotkd.console import show_epoch
from dotkd.recipe import load_recipe
from dotkd.report import write_report
from dotkd.runs import GRADIENTS, read_run
from dotkd.train.loop import train

CHECKPOINTED = """
import torch
from torch.utils.checkpoint import checkpoint


class Net(torch.nn.Module):
    def __init__(self, num_classes, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.first, self.body = torch.nn.Linear(64, 16), torch.nn.Linear(16, 16)
        self.last = torch.nn.Linear(16, num_classes)

    def forward(self, images):
        hidden = self.first(images.flatten(1)).relu()
        if torch.is_grad_enabled():
            hidden = checkpoint(self.body, hidden, use_reentrant=self.reentrant)
        else:
            hidden = self.body(hidden)
        return self.last(hidden.relu())


def reentrant(num_classes):
    return Net(num_classes, True)


def usual(num_classes):
    return Net(num_classes, False)
"""

ONCE = """
import torch


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        if hasattr(ctx, "gone"):
            raise RuntimeError("this graph goes backward once\\nand never again")
        ctx.gone = True
        return gradient


class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.last = torch.nn.Linear(64, num_classes)

    def forward(self, images):
        return Once.apply(self.last(images.flatten(1)))


def net(num_classes):
    return Net(num_classes)
"""


@pytest.fixture
def taught(tmp_path, monkeypatch):
    """Trains a student of the user's own with KD, and a teacher of one epoch before it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpointed.py").write_text(CHECKPOINTED)
    (tmp_path / "once.py").write_text(ONCE)
    (tmp_path / "teacher.toml").write_text(
        'extends = "quick/digits-teacher"\nstudent.model = "small/mlp16"\nschedule.epochs = 1\n'
    )

    def run(name, model, *changes):
        given = [f"student.model={model}", "teacher.recipe=teacher.toml", "schedule.epochs=2", *changes]
        return train(load_recipe(name, given), tmp_path / model.replace(":", "-"))

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kd-dot", "kd", "kd-control"])
def test_reentrant_checkpointing_changes_no_number(name, taught, tmp_path):
    runs = {}
    for kind in ("usual", "reentrant"):
        taught(f"quick/digits-{name}", f"checkpointed:{kind}")
        runs[kind] = read_run(tmp_path / f"checkpointed-{kind}")
    ours, theirs = ([line.model_dump(exclude={"seconds"}) for line in run.metrics] for run in runs.values())
    assert ours == theirs
    assert ours[0]["gradient_cosine"] is not None
    assert runs["usual"].gradients == runs["reentrant"].gradients
    assert runs["usual"].results.last == runs["reentrant"].results.last


@pytest.mark.slow
def test_gradients_that_cannot_be_compared_are_left_out_with_the_reason(taught, tmp_path, capsys):
    # Plain momentum goes backward once, through the sum; the comparison would go backward twice.
    results = taught("quick/digits-kd", "once:net")
    assert results.last.epoch == 2
    run = read_run(tmp_path / "once-net")
    reason = "this graph goes backward once"
    for line in run.metrics:
        assert line.gradient_reason == reason
        assert line.gradient_cosine is None
        assert line.validation_accuracy > 0.1
    assert not (tmp_path / "once-net" / GRADIENTS).exists()
    show_epoch(run.metrics[0])
    said = capsys.readouterr().out
    assert "cosine    -" in said
    assert reason in said
    page = write_report(tmp_path / "once-net")
    assert f"KD, seed 0: no comparison of the gradients ({reason})" in page.read_text()


@pytest.mark.slow
def test_usual_networks_have_no_reason(taught, tmp_path):
    taught("quick/digits-kd-dot", "checkpointed:usual")
    line = json.loads((tmp_path / "checkpointed-usual" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["gradient_reason"] is None
    assert torch.tensor(line["gradient_cosine"]).abs() <= 1
