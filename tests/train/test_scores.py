"""Accuracy, top-5 and loss against other implementations; the network is only read."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import nn

from dotkd.data import ImageData
from dotkd.train.scores import in_evaluation_mode, score


def data(images: int = 203, classes: int = 12, seed: int = 0) -> ImageData:
    stream = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 2, 3, 4), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, classes, (images,), generator=stream)
    return ImageData(pixels, labels, [str(i) for i in range(classes)])


def model(classes: int = 12) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(24, 30), nn.Dropout(0.5), nn.ReLU(), nn.Linear(30, classes)
        )


@pytest.mark.parametrize("classes", [6, 12])
def test_against_scikit_learn(classes: int) -> None:
    images, net = data(classes=classes), model(classes).eval()
    with torch.no_grad():
        logits = net(images.pixels.float() / 255).double()
    probabilities, truth, known = logits.softmax(dim=1).numpy(), images.labels.numpy(), np.arange(classes)
    found = score(net, images)
    assert found.accuracy == pytest.approx(accuracy_score(truth, probabilities.argmax(axis=1)), abs=1e-12)
    assert found.top5 == pytest.approx(
        top_k_accuracy_score(truth, probabilities, k=5, labels=known), abs=1e-12
    )
    assert found.loss == pytest.approx(log_loss(truth, probabilities, labels=known), rel=1e-6)
    assert 0 < found.accuracy < found.top5 < 1  # not a trivial case


class Fixed(nn.Module):
    """The logits are in the pixels."""

    def forward(self, images):
        return images.flatten(1) * 255


def test_numbers_worked_out_by_hand() -> None:
    rows = [[9, 0, 0, 0, 0, 0, 0], [9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 4, 3], [0, 0, 0, 0, 0, 0, 9]]
    pixels = torch.tensor(rows, dtype=torch.uint8).reshape(4, 1, 1, 7)
    images = ImageData(pixels, torch.tensor([0, 4, 5, 6]), list("abcdefg"))
    found = score(Fixed(), images)
    assert (found.accuracy, found.top5) == (0.5, 0.75)
    certain = math.log(1 + 6 * math.exp(-9))
    graded = math.log(sum(math.exp(k) for k in range(3, 10)))
    assert found.loss == pytest.approx((2 * certain + (graded - 5) + (graded - 4)) / 4, rel=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 4, 5])
def test_with_five_classes_or_fewer_the_top_five_are_all(classes: int) -> None:
    assert score(model(classes), data(classes=classes)).top5 == 1.0


@pytest.mark.parametrize("size", [1, 7, 203, 1000])
def test_batch_size_does_not_matter(size: int) -> None:
    net, images = model(), data()
    found, whole = score(net, images, batch_size=size), score(net, images)
    assert (found.accuracy, found.top5) == (whole.accuracy, whole.top5)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_a_network_is_only_read() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), *model())
    net.train()
    net[3].eval()  # a frozen part
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    first, second = score(net, data()), score(net, data())
    assert first == second, "dropout or batch statistics are at work"
    assert [part.training for part in net.modules()] == [part is not net[3] for part in net.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


def test_modes_come_back_after_an_error() -> None:
    net = model().train()

    def fail() -> None:
        with in_evaluation_mode(net):
            assert not any(part.training for part in net.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(part.training for part in net.modules())


def test_bf16_is_used_and_near_and_the_loss_is_summed_in_full() -> None:
    net, images = model(), data(images=2000)
    seen = []
    net[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    low = score(net, images, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    full = score(net, images)
    assert seen[-1] == torch.float32
    assert low.loss == pytest.approx(full.loss, rel=1e-3)
    assert low.loss != full.loss
    assert abs(low.accuracy - full.accuracy) < 0.02


def test_broken_logits_are_seen_in_the_loss() -> None:
    net = model()
    with torch.no_grad():
        net[-1].bias.fill_(math.nan)
    assert math.isnan(score(net, data()).loss)
