"""The distiller: two losses apart, a teacher that nothing moves, and refusals in one sentence."""

import copy
import math
import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from dotkd import Distiller, Losses, Method
from dotkd.losses import dkd_loss, kd_loss
from dotkd.methods import DKD, KD, FunctionMethod, TaskMethod
from dotkd.methods.base import Outputs


class ConvNet(nn.Module):
    def __init__(self, width, classes=3, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.drop(self.body(images)).mean((2, 3)))


class Projected(Method):
    """A method with a learned part: the student's body, projected, follows the teacher's."""

    needs = ("body",)

    def __init__(self, *, student_width=4, teacher_width=6, **weights):
        super().__init__(**weights)
        self.project = nn.Sequential(
            nn.Conv2d(student_width, teacher_width, 1), nn.BatchNorm2d(teacher_width)
        )
        self.seen = {}

    def forward(self, student, teacher, target, *, index, progress):  # noqa: ARG002
        self.seen = {"index": index, "progress": progress, "dtype": student.features["body"].dtype}
        return functional.mse_loss(self.project(student.features["body"]), teacher.features["body"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def batch(size=8):
    return torch.rand(size, 1, 6, 6), torch.randint(3, (size,))


def pair(**options):
    return ConvNet(4, **options), ConvNet(6, dropout=0.5)


def feature_distiller(**weights):
    return Distiller(*pair(), Projected(**weights), taps={"body": "body"})


def frozen_copy(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module, before):
    after = module.state_dict()
    return list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)


# Two losses ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "loss"),
    [
        (KD(task_weight=0.3, distill_weight=2.0, warmup=0.5), lambda s, t, _: kd_loss(s, t)),
        (DKD(task_weight=0.3, distill_weight=2.0, warmup=0.5), dkd_loss),
    ],
)
def test_weighted_and_raw_losses(method, loss):
    student, teacher = pair()
    distiller = Distiller(student, teacher, method)
    images, labels = batch()
    losses = distiller(images, labels, progress=0.25)
    assert isinstance(losses, Losses)
    assert list(losses.streams) == list(losses.raw) == ["task", "distill"]

    with torch.no_grad():
        logits, target = student(images), teacher.eval()(images)
    torch.testing.assert_close(losses.logits, logits)
    torch.testing.assert_close(losses.raw_task, functional.cross_entropy(logits, labels))
    torch.testing.assert_close(losses.raw_distill, loss(logits, target, labels))
    torch.testing.assert_close(losses.task, 0.3 * losses.raw_task)
    torch.testing.assert_close(losses.distill, 2.0 * 0.5 * losses.raw_distill)
    assert not losses.raw_task.requires_grad
    assert not losses.raw_distill.requires_grad


def test_each_loss_has_a_gradient_of_its_own_for_the_student_alone():
    distiller = feature_distiller()
    losses = distiller(*batch())
    losses.distill.backward(retain_graph=True)
    student = dict(distiller.student.named_parameters())
    assert student["body.0.weight"].grad.abs().sum() > 0
    assert student["head.weight"].grad is None  # the feature loss does not reach the classifier
    assert all(p.grad is not None for p in distiller.method.parameters())
    distiller.zero_grad()
    losses.task.backward()
    assert all(p.grad.abs().sum() > 0 for p in student.values() if p.ndim > 1)
    assert all(p.grad is None for p in distiller.method.parameters())
    assert all(p.grad is None for p in distiller.teacher.parameters())


def test_a_name_takes_options_and_a_function_makes_a_method():
    assert Distiller(*pair()).method.temperature == 4.0
    assert Distiller(*pair(), "dkd", beta=2.0).method.beta == 2.0
    images, labels = batch()
    mse = FunctionMethod(lambda s, t, _: functional.mse_loss(s.logits, t.logits))
    distiller = Distiller(*pair(), mse)
    assert distiller(images, labels).distill > 0


def test_index_and_progress_reach_the_method():
    distiller = feature_distiller()
    index = torch.arange(8)
    distiller(*batch(), index=index, progress=0.75)
    assert distiller.method.seen["index"] is index
    assert distiller.method.seen["progress"] == 0.75


def test_mixed_labels_are_accepted_where_no_hard_label_is_read():
    images, labels = batch()
    mixed = 0.7 * functional.one_hot(labels, 3).float() + 0.1
    losses = Distiller(*pair(), "kd")(images, mixed)
    torch.testing.assert_close(losses.raw_task, functional.cross_entropy(losses.logits, mixed))


def test_taps_may_differ_between_the_models():
    student, teacher = pair()
    student.backbone = student.body  # a second name for the same part
    distiller = Distiller(student, teacher, Projected(), taps={"body": ("backbone", "body")})
    plain = Distiller(copy.deepcopy(student), teacher, copy.deepcopy(distiller.method), taps={"body": "body"})
    images, labels = batch()
    assert torch.equal(distiller(images, labels).distill, plain(images, labels).distill)


def test_feature_methods_do_not_mind_another_set_of_classes():
    losses = Distiller(ConvNet(4, classes=3), ConvNet(6, classes=5), Projected(), taps={"body": "body"})(
        *batch()
    )
    assert losses.distill > 0


# Without a teacher -----------------------------------------------------------


class Brier(TaskMethod):
    def forward(self, logits, target):
        return (logits.softmax(1) - functional.one_hot(target, 3)).square().sum(1).mean()


def test_without_a_teacher_there_is_the_task_loss_alone():
    student, images = ConvNet(4), torch.rand(8, 1, 6, 6)
    labels = torch.randint(3, (8,))
    expected = functional.cross_entropy(student(images), labels)
    for distiller in (Distiller(student), Distiller(student, None, None)):
        losses = distiller(images, labels, index=torch.arange(8), progress=0.5)
        assert list(losses.streams) == list(losses.raw) == ["task"]
        assert (losses.distill, losses.raw_distill) == (None, None)
        assert torch.equal(losses.task, expected)
        assert losses.task.requires_grad
        assert not losses.raw_task.requires_grad
        assert (distiller.needs, distiller.weights()) == ((), {"task": 1.0})
        assert distiller.deployable() is student
        assert distiller.trainable_parameters() == list(student.parameters())
    with pytest.raises(ValueError, match="this distiller has no teacher"):
        distiller.teach(images)


def test_a_task_method_takes_the_place_of_the_cross_entropy():
    student, (images, labels) = ConvNet(4), batch()
    logits = student(images)
    losses = Distiller(student, None, Brier())(images, labels)
    torch.testing.assert_close(losses.task, Brier()(logits, labels))
    torch.testing.assert_close(losses.raw_task, functional.cross_entropy(logits, labels))
    smooth = Distiller(student, None, "label_smoothing")
    assert isinstance(smooth.method, TaskMethod)
    mixed = functional.one_hot(labels, 3).float()
    Distiller(student)(images, mixed)
    with pytest.raises(ValueError, match=r"labels must be int64 class numbers \[8\], got torch.float32"):
        smooth(images, mixed)


def test_methods_and_teachers_go_together():
    student, teacher = pair()
    for method in ("kd", KD()):
        with pytest.raises(ValueError, match="needs a teacher, and there is none"):
            Distiller(student, None, method)
    with pytest.raises(ValueError, match="'label_smoothing' has one loss and no teacher"):
        Distiller(student, teacher, "label_smoothing")
    with pytest.raises(ValueError, match=r"taps \['body'\] are for methods with a teacher"):
        Distiller(student, taps={"body": "body"})
    with pytest.raises(TypeError, match="method must be a name, a TaskMethod or None without a teacher"):
        Distiller(student, None, functional.mse_loss)
    with pytest.raises(ValueError, match=r"options \['temperature'\] go with a method's name"):
        Distiller(student, temperature=2.0)


# The teacher -----------------------------------------------------------------


def test_training_never_moves_the_teacher():
    distiller = feature_distiller()
    teacher, before = distiller.teacher, frozen_copy(distiller.teacher)
    student_before = frozen_copy(distiller.student)
    parent = nn.ModuleList([distiller])
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    images, labels = batch()
    answer = teacher(images)
    for step in range(4):
        parent.train() if step % 2 else distiller.train()
        if step == 3:
            teacher.train()  # its owner forgets; the next call repairs it
        losses = distiller(images, labels)
        optimizer.zero_grad()
        (losses.task + losses.distill).backward()
        optimizer.step()
        assert not any(module.training for module in teacher.modules())
    assert unchanged(teacher, before)
    assert torch.equal(teacher(images), answer)
    assert not unchanged(distiller.student, student_before)


def test_the_teacher_runs_without_a_graph_even_if_the_images_have_one():
    seen = {}

    def watch(student, teacher, target):
        seen.update(teacher=teacher, student=student)
        return student.logits.mean()

    images, labels = batch()
    Distiller(*pair(), FunctionMethod(watch))(images.requires_grad_(), labels)
    assert seen["student"].logits.requires_grad
    assert not seen["teacher"].logits.requires_grad
    assert not seen["teacher"].logits.is_inference()  # a loss may save it for its backward pass


def test_what_the_teacher_said_may_be_given_back():
    distiller = feature_distiller()
    images, labels = batch()
    known = distiller.teach(images.requires_grad_())
    assert list(known.features) == ["body"]
    assert not known.logits.requires_grad
    assert not known.features["body"].requires_grad
    expected = copy.deepcopy(distiller)(images, labels)
    asked = []
    distiller.teacher.register_forward_hook(lambda *_: asked.append(True))
    given = distiller(images, labels, teacher_outputs=known)
    assert not asked
    assert torch.equal(given.task, expected.task)
    assert torch.equal(given.distill, expected.distill)
    distiller.teacher.train()  # its owner forgets
    assert torch.equal(distiller.teach(images).logits, known.logits)
    assert asked


def test_given_outputs_are_of_these_images_and_complete():
    distiller = feature_distiller()
    images, labels = batch()
    known = distiller.teach(images)
    with pytest.raises(ValueError, match="teacher_outputs lack what the method reads: body"):
        distiller(images, labels, teacher_outputs=Outputs(known.logits))
    with pytest.raises(ValueError, match=r"must be of the same 4 images, got logits \[8, 3\]"):
        distiller(images[:4], labels[:4], teacher_outputs=known)


def test_the_modes_of_student_and_method_follow():
    distiller = feature_distiller()
    assert distiller.train() is distiller
    assert distiller.student.training
    distiller.eval()
    assert not distiller.student.training
    assert not distiller.method.training
    assert not distiller.teacher.training


def test_the_teacher_is_outside_of_the_module_tree():
    distiller = feature_distiller()
    teacher = distiller.teacher
    assert not any(key.startswith("teacher") for key in distiller.state_dict())
    assert {key.split(".")[0] for key in distiller.state_dict()} == {"student", "method"}
    assert all(module is not teacher for module in distiller.modules())
    distiller.requires_grad_(True)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert "teacher=ConvNet (frozen)" in repr(distiller)


def test_an_exchanged_teacher_is_frozen_too():
    distiller = Distiller(*pair())
    distiller.teacher = ConvNet(5)
    assert not distiller.teacher.training
    assert not any(p.requires_grad for p in distiller.teacher.parameters())
    assert not any(key.startswith("teacher") for key in distiller.state_dict())


def test_an_exchanged_student_is_the_one_trained():
    distiller = Distiller(*pair())
    distiller.student = ConvNet(7)
    distiller(*batch()).task.backward()
    assert distiller.student.head.weight.grad is not None


def test_the_teacher_moves_with_the_distiller():
    distiller = feature_distiller().to(torch.float64)
    assert distiller.teacher.head.weight.dtype == torch.float64
    images, labels = batch()
    assert distiller(images.double(), labels).distill.dtype == torch.float64
    assert distiller.to("meta").teacher.head.weight.device.type == "meta"
    assert distiller(images.double().to("meta"), labels.to("meta")).task.shape == ()  # reads no value


def test_a_state_dict_round_trip_restores_student_and_method():
    one, two = feature_distiller(), feature_distiller()
    two.load_state_dict(one.state_dict())  # strict
    two.teacher.load_state_dict(one.teacher.state_dict())
    images, labels = batch()
    assert torch.equal(one(images, labels).distill, two(images, labels).distill)


def test_copies_and_pickles_carry_their_own_teacher():
    distiller = feature_distiller()
    images, labels = batch()
    for twin in (copy.deepcopy(distiller), pickle.loads(pickle.dumps(distiller))):
        assert twin.teacher is not distiller.teacher
        assert not any(p.requires_grad for p in twin.teacher.parameters())
        assert torch.equal(twin(images, labels).distill, copy.deepcopy(distiller)(images, labels).distill)


def test_trainable_parameters():
    distiller = feature_distiller()
    distiller.student.body[0].weight.requires_grad_(False)
    expected = [*list(distiller.student.parameters())[1:], *distiller.method.parameters()]
    found = distiller.trainable_parameters()
    assert {id(p) for p in found} == {id(p) for p in expected}
    assert len(found) == len(expected)


def test_a_part_that_student_and_method_share_is_listed_once():
    student, teacher = pair()
    method = Projected()
    method.head = student.head
    distiller = Distiller(student, teacher, method, taps={"body": "body"})
    found = distiller.trainable_parameters()
    assert len(found) == len({id(p) for p in found})


def test_deployable_is_the_student_unless_the_method_says_so():
    distiller = Distiller(*pair())
    assert distiller.deployable() is distiller.student

    class Composed(Projected):
        def deployable(self, student):
            return nn.Sequential(student, nn.Softmax(dim=1))

    composed = Distiller(*pair(), Composed(), taps={"body": "body"})
    assert composed.deployable()[0] is composed.student


# Precision and compilation ---------------------------------------------------


def test_under_autocast_the_losses_are_float32():
    distiller = feature_distiller()
    images, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = distiller(images, labels)
    assert losses.logits.dtype == torch.bfloat16  # the model ran as asked
    assert distiller.method.seen["dtype"] == torch.float32
    assert losses.task.dtype == losses.distill.dtype == torch.float32
    torch.testing.assert_close(losses.raw_task, functional.cross_entropy(losses.logits.float(), labels))
    (losses.task + losses.distill).backward()
    assert all(p.grad.dtype == torch.float32 for p in distiller.trainable_parameters())


def test_a_half_precision_model_is_compared_in_float32():
    distiller = Distiller(ConvNet(4).bfloat16(), ConvNet(6).bfloat16(), "dkd")
    images, labels = batch()
    assert distiller(images.bfloat16(), labels).distill.dtype == torch.float32


# torch.compile looks at .grad of what it traces, and hides the warning from all but strict filters.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_models_give_the_same_losses(whole):
    distiller = feature_distiller()
    images, labels = batch()
    expected = copy.deepcopy(distiller)(images, labels)
    if whole:
        losses = torch.compile(distiller, backend="eager")(images, labels)
    else:
        distiller.student = torch.compile(distiller.student, backend="eager", fullgraph=True)
        distiller.teacher = torch.compile(distiller.teacher, backend="eager", fullgraph=True)
        losses = distiller(images, labels)
    torch.testing.assert_close(losses.task, expected.task)
    torch.testing.assert_close(losses.distill, expected.distill)
    assert not distiller.teacher.training


# Refusals --------------------------------------------------------------------


def test_a_wrapped_student_is_refused():
    student, teacher = pair()
    message = r"wrapped in DataParallel, .* pass the plain module and DOT\(process_group=\.\.\.\)"
    with pytest.raises(ValueError, match=message):
        Distiller(nn.DataParallel(student), teacher)
    with pytest.raises(ValueError, match=message):
        Distiller(nn.Sequential(nn.DataParallel(student)), teacher)


def test_a_student_in_ddp_is_refused(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        student, teacher = pair()
        wrapped = nn.parallel.DistributedDataParallel(student)
        with pytest.raises(ValueError, match=r"wrapped in DistributedDataParallel, .* of only the first"):
            Distiller(wrapped, teacher)
    finally:
        torch.distributed.destroy_process_group()


def test_student_and_teacher_share_nothing():
    student, teacher = pair()
    with pytest.raises(ValueError, match="student and teacher are the same object"):
        Distiller(student, student)
    teacher.drop = student.drop
    with pytest.raises(ValueError, match=r"student and teacher share memory .'drop' is the teacher's 'drop'"):
        Distiller(student, teacher)
    student, teacher = ConvNet(4), ConvNet(4)
    teacher.head.weight = student.head.weight
    with pytest.raises(ValueError, match=r"'head\.weight' is the teacher's 'head\.weight'"):
        Distiller(student, teacher)
    student, teacher = ConvNet(4), ConvNet(4)
    student.load_state_dict(teacher.state_dict(), assign=True)
    with pytest.raises(ValueError, match=r"'body\.0\.weight' is the teacher's 'body\.0\.weight'"):
        Distiller(student, teacher)
    student, teacher = pair()
    method = Projected()
    method.head = teacher.head
    with pytest.raises(ValueError, match=r"method and teacher share memory .* use copy\.deepcopy"):
        Distiller(student, teacher, method, taps={"body": "body"})


def test_the_wrong_method():
    with pytest.raises(ValueError, match="unknown method 'kdd'; nearest: 'kd'"):
        Distiller(*pair(), "kdd")
    with pytest.raises(ValueError, match="unknown option of method 'kd' 'temp'; nearest: 'temperature'"):
        Distiller(*pair(), "kd", temp=2.0)
    with pytest.raises(ValueError, match=r"options \['temperature'\] go with a method's name; this KD"):
        Distiller(*pair(), KD(), temperature=2.0)
    with pytest.raises(TypeError, match=r"method must be a name or a Method, got .*FunctionMethod"):
        Distiller(*pair(), functional.mse_loss)


@pytest.mark.parametrize(
    ("method", "taps", "message"),
    [
        (Projected(), None, "the method needs the feature 'body'; .* taps={'body': 'dotted.path'}"),
        (
            Projected(),
            {"body": "body", "bodies": "body"},
            "unknown tap 'bodies'; nearest: 'body' .* reads body",
        ),
        (KD(), {"body": "body"}, "tap 'body' is not needed: the method reads no features"),
        (Projected(), {"body": "boddy"}, "tap 'body': ConvNet has no submodule 'boddy'; nearest: 'body"),
        (Projected(), {"body": ("body", "haed")}, "no submodule 'haed'; nearest: 'head'"),
        (Projected(), {"body": ("body", "body", "body")}, r"one path or a pair .*, got \('body'"),
    ],
)
def test_wrong_taps(method, taps, message):
    with pytest.raises(ValueError, match=message):
        Distiller(*pair(), method, taps=taps)


@pytest.mark.parametrize("progress", [-0.1, 1.1, 20, math.nan])
def test_progress_is_a_share_of_the_run(progress):
    with pytest.raises(ValueError, match=rf"progress must be the share .* in \[0, 1\], got {progress}"):
        Distiller(*pair())(*batch(), progress=progress)


def test_the_models_must_know_the_same_classes():
    message = "method KD compares logits, but the student returns [8, 5] and the teacher [8, 3]"
    with pytest.raises(ValueError, match=re.escape(message)):
        Distiller(*pair(classes=5))(*batch())


class Wrapped(nn.Module):
    def __init__(self, body, outcome):
        super().__init__()
        self.body, self.outcome = body, outcome

    def forward(self, images):
        return self.outcome(self.body(images))


def test_a_model_must_return_logits():
    student, teacher = pair()
    with pytest.raises(TypeError, match="the student returned a dict; it must return its logits alone"):
        Distiller(Wrapped(student, lambda x: {"logits": x}), teacher)(*batch())
    with pytest.raises(ValueError, match=r"the teacher's logits must be \[B, C\], got shape \[8, 3, 1\]"):
        Distiller(student, Wrapped(teacher, lambda x: x.unsqueeze(2)))(*batch())


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(8),
        torch.zeros(8, dtype=torch.int32),
        torch.zeros(7, dtype=torch.int64),
        torch.zeros(8, 4),
    ],
)
def test_labels_must_fit(labels):
    got = f"{labels.dtype} {list(labels.shape)}"
    message = f"labels must be int64 class numbers [8] or probabilities [8, 3], got {got}"
    with pytest.raises(ValueError, match=re.escape(message)):
        Distiller(*pair())(batch()[0], labels)


SOME = torch.tensor([0, -100, 2, -100, -100, 1, 1, -100])  # the labels of eight images


@pytest.mark.parametrize("method", ["kd", "dkd", "nkd", "dist"])
@pytest.mark.parametrize("known", [torch.tensor([0, 2, 5, 6]), torch.tensor([], dtype=torch.int64)])
def test_labels_of_some_images(method, known):
    student, teacher = pair()
    images, labels = batch()[0], torch.full((8,), -100).index_copy(0, known, SOME[known])
    distiller = Distiller(student, teacher, method).eval()
    found = distiller(images, labels)
    if not len(known):
        assert found.raw_task == 0
        found.task.backward()
        assert all(not param.grad.any() for param in student.parameters())
    else:
        wanted = functional.cross_entropy(student(images[known]), SOME[known])
        torch.testing.assert_close(found.raw_task, wanted.detach())
    if method in ("kd", "dist"):  # which read no label: all images teach
        torch.testing.assert_close(found.raw_distill, distiller(images, labels.clamp(min=0)).raw_distill)
    elif len(known):
        torch.testing.assert_close(found.raw_distill, distiller(images[known], SOME[known]).raw_distill)
    else:
        assert found.raw_distill == 0


@pytest.mark.parametrize("method", [None, "label_smoothing", "tf_kd"])
def test_labels_of_some_images_without_a_teacher(method):
    plain = Distiller(pair()[0], method=method).eval()
    images, known = batch()[0], SOME >= 0
    found, wanted = plain(images, SOME), plain(images[known], SOME[known])
    torch.testing.assert_close(found.task, wanted.task)
    torch.testing.assert_close(found.raw_task, wanted.raw_task)
    assert plain(images, torch.full((8,), -100)).task == 0


@pytest.mark.parametrize(
    ("row", "got"),
    [
        ((1, 0, 1), "row 3 with the least entry 0 and the sum 2"),
        ((0, 0, 0), "row 3 with the least entry 0 and the sum 0"),
        ((1.5, -0.5, 0), "row 3 with the least entry -0.5 and the sum 1"),
        ((math.nan, 0, 1), "row 3 .* the sum nan"),
    ],
)
@pytest.mark.parametrize("teacher", [True, False])
def test_rows_that_are_no_probabilities(row, got, teacher):
    student, other = pair()
    labels = functional.one_hot(torch.arange(8) % 3).float()
    distiller = Distiller(student, other if teacher else None)
    distiller(batch()[0], labels)
    labels[3] = torch.tensor(row)
    with pytest.raises(ValueError, match=f"labels must be class numbers, or rows of probabilities .* {got}"):
        distiller(batch()[0], labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_of_probabilities_in_any_precision(dtype):
    student, teacher = pair()
    rows = torch.rand(8, 3).softmax(dim=1)
    found = Distiller(student, teacher).eval()(images := batch()[0], rows.to(dtype))
    wanted = functional.cross_entropy(student(images), rows)
    torch.testing.assert_close(found.raw_task.float(), wanted.detach(), rtol=0.01, atol=0)


@pytest.mark.parametrize(("shape", "got"), [((8,), r"\[8\]"), (None, "float")])
def test_a_method_must_return_a_scalar(shape, got):
    def wrong(student, teacher, target):
        return torch.zeros(shape) if shape else 1.0

    with pytest.raises(ValueError, match=f"FunctionMethod must return a scalar tensor, got {got}"):
        Distiller(*pair(), FunctionMethod(wrong))(*batch())
