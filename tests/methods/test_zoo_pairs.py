"""Every method between networks of different families, those among them for which published code fails."""

import pytest
import torch

from dotkd import DOT, Distiller
from dotkd.losses import margin_from_batch_norm
from dotkd.methods import has_teacher, method_names
from dotkd.models import create_model
from dotkd.train.differentiate import differentiate

PAIRS = {
    "resnet8 -> MobileNetV2": ("resnet8", "MobileNetV2"),
    "vgg8 -> ShuffleV1": ("vgg8", "ShuffleV1"),
    "wrn_16_1 -> ShuffleV2": ("wrn_16_1", "ShuffleV2"),
    "MobileNetV2 -> resnet8": ("MobileNetV2", "resnet8"),
    "Tiny ResNet18 -> Tiny MobileNetV2": ("tiny_imagenet/ResNet18", "tiny_imagenet/MobileNetV2"),
}
# KDSVD compares singular vectors over the columns of maps, which must be as many.
METHODS = [name for name in method_names() if has_teacher(name) and name != "kdsvd"]


@pytest.fixture(scope="module", params=PAIRS.values(), ids=PAIRS)
def pair(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tuple(create_model(name, 5) for name in request.param)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_under_each_method(method, pair):
    teacher, student = pair
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 0])
    options = {"negatives": 8} if method == "crd" else {}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        distiller = Distiller(student, teacher, method, example=images, labels=labels, **options)
        before = [value.clone() for value in teacher.state_dict().values()]
        optimizer = DOT(distiller.trainable_parameters(), lr=1e-4)
        losses = distiller(images, labels, index=torch.arange(4), progress=0.5)
        differentiate(optimizer, losses)
        optimizer.step()
    assert losses.raw_distill.isfinite()
    assert losses.raw_task.isfinite()
    assert all(parameter.isfinite().all() for parameter in distiller.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, teacher.state_dict().values(), strict=True))


@pytest.mark.parametrize("teacher", ["resnet32x4", "wrn_16_2", "vgg13", "ResNet50"])
def test_the_margins_of_ofd_are_those_of_the_batch_norms_that_the_published_code_names(teacher):
    network, student = create_model(teacher, 5), create_model("resnet8", 5)
    for path in network.norm_paths:
        norm = network.get_submodule(path)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -1.0, 1.0)
    distiller = Distiller(student, network, "ofd", example=torch.rand(2, 3, 32, 32))
    # Of four stages of a teacher the three-stage student is compared with these.
    chosen = (0, 1, 2) if len(network.norm_paths) == 3 else (0, 1, 3)
    for number, place in enumerate(chosen):
        norm = network.get_submodule(network.norm_paths[place])
        wanted = margin_from_batch_norm(norm.weight.detach(), norm.bias.detach())
        torch.testing.assert_close(distiller.method.connectors.get_buffer(f"margin_{number}"), wanted)
    assert len(network.norm_paths) == len(network.preact_paths) - 1
