"""The whole loop on a GPU, in both precisions, stopped and resumed."""

import pytest
import torch
from torch._dynamo.utils import counters

from dotkd.recipe import load_recipe
from dotkd.runs import read_run
from dotkd.train.loop import provide_teacher, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arm", ["kd", "kd-dot", "kd-control"])
def test_a_run_on_a_gpu_learns_and_resumes(arm, precision, tmp_path):
    overrides = ["run.device=cuda", f"run.precision={precision}", "data.augment=crop-flip"]
    recipe = load_recipe(f"quick/digits-{arm}", [*overrides, "schedule.epochs=4", "student.model=small/cnn8"])
    teacher = provide_teacher(recipe, tmp_path / "teacher")

    def stop(line):
        if line.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", teacher=teacher, on_epoch=[stop])
    train(recipe, tmp_path / "run", teacher=teacher, resume=True)
    run = read_run(tmp_path / "run")
    assert [line.epoch for line in run.metrics] == [1, 2, 3, 4]
    assert run.metrics[-1].train_distill_loss < run.metrics[0].train_distill_loss
    assert run.environment["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("cache", ["off", "run"])
@pytest.mark.parametrize("kind", ["parts", "step"])
def test_compiled_steps_are_cuda_graphs_and_learn_as_the_usual_ones(kind, cache, tmp_path):
    overrides = ["run.device=cuda", "data.augment=flip", "schedule.epochs=2", "student.model=small/cnn8"]
    plain = load_recipe("quick/digits-kd-dot", overrides)
    teacher = provide_teacher(plain, tmp_path / "teacher")
    train(plain, tmp_path / "none", teacher=teacher)
    counters.clear()
    more = [f"run.compile={kind}", f"run.teacher_cache={cache}"]
    train(load_recipe("quick/digits-kd-dot", [*overrides, *more]), tmp_path / kind, teacher=teacher)
    assert counters["inductor"]["cudagraph_skips"] == 0
    one, other = (read_run(tmp_path / name).metrics for name in ("none", kind))
    for key in ("train_task_loss", "train_distill_loss"):
        assert [getattr(line, key) for line in other] == pytest.approx(
            [getattr(line, key) for line in one], rel=0.02
        )
