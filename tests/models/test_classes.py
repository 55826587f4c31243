"""Classes of a network and of data are compared by name, and outputs are put in the order of the data."""

import copy

import pytest
import torch
from torch import nn

from dotkd import Distiller
from dotkd.errors import BadInput
from dotkd.models import External, create_model
from dotkd.models.classes import class_names, class_order, order_classes

FOLDERS = sorted(map(str, range(12)))  # 0, 1, 10, 11, 2, ...


@pytest.mark.parametrize(
    ("names", "wanted", "order"),
    [
        (["cat", "dog"], ["cat", "dog"], None),
        (["cat", "Dog"], ["DOG", "cat"], [1, 0]),
        (["c", "a", "b"], ["a", "b", "c"], [1, 2, 0]),
        (FOLDERS, list(map(str, range(12))), [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]),
        (["Traffic light", "Polar_Bear"], ["polar-bear", "traffic_light"], [1, 0]),
        (["polar bear", "cat"], ["Polar Bear", "cat"], None),
        (["c", "c++"], ["C++", "C"], [1, 0]),
        (["10-20", "0-9"], ["0-9", "10_20"], [1, 0]),
        ([], ["cat", "dog"], None),
        (["cat", "dog"], [], None),
        (["LABEL_0", "LABEL_1"], ["cat", "dog"], None),
        (["cat", "dog"], ["0", "1"], None),
        (["tench, Tinca tinca", "goldfish"], ["n01440764", "n01443537"], None),
    ],
)
def test_order_of_the_outputs(names, wanted, order):
    assert class_order(names, wanted) == order


@pytest.mark.parametrize(
    ("names", "wanted", "says"),
    [
        (["red", "green"], ["a_red", "green"], r"\(2: 'red'\) .* \(2: 'a_red'\)"),
        (["cat", "dog", "fox"], ["cat", "dog"], r"3: 'fox'\)|3: 'fox', "),
        (["crane", "Crane"], ["crane", "gull"], r"'gull'"),
        (["c", "c++", "a b"], ["c", "c++", "a_b"], r"'a b'.*'a_b'"),
        (["+", "="], ["-", "="], r"'\+'.*'-'"),
        (["0-9", "10-20"], ["young", "old"], r"'0-9'.*'young'"),
    ],
)
def test_other_names_are_refused(names, wanted, says):
    with pytest.raises(BadInput) as caught:
        class_order(names, wanted)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=says):
        class_order(names, wanted)


class TwoHeads(nn.Module):
    """Its logits are the mean of two layers, so that no layer alone returns them."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, images):
        return (self.one(images.flatten(1)) + self.two(images.flatten(1))) / 2


def network(kind):
    torch.manual_seed(0)
    if kind == "zoo":
        return create_model("small/cnn4", 3, image_shape=(3, 2, 2))
    if kind == "two heads":
        return External(TwoHeads(), 3, "mine:net")
    if kind == "one of two heads is named":
        return External(TwoHeads(), 3, "mine:net", classifier_path="one")
    return External(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 3, "mine:net", classifier_path="1")


@pytest.mark.parametrize("kind", ["zoo", "external", "two heads", "one of two heads is named"])
def test_outputs_in_the_order_of_the_data(kind):
    model, images = network(kind).eval(), torch.rand(4, 3, 2, 2)
    model.class_names = ("red", "blue", "Green")
    before = model(images)
    order_classes(model, ("blue", "green", "red"), (3, 2, 2))
    torch.testing.assert_close(model(images), before[:, [1, 2, 0]])
    assert class_names(model) == ("blue", "green", "red")
    order_classes(model, ("blue", "green", "red"), (3, 2, 2))
    torch.testing.assert_close(copy.deepcopy(model)(images), before[:, [1, 2, 0]])


def test_a_method_that_copies_the_classifier_gets_the_order_too():
    student, teacher = (create_model("small/cnn4", 3, image_shape=(3, 8, 8)).eval() for _ in range(2))
    teacher.class_names = ("b", "c", "a")
    images = torch.rand(4, 3, 8, 8)
    theirs = teacher(images)
    order_classes(teacher, ("a", "b", "c"), (3, 8, 8))
    distiller = Distiller(student, teacher, "simkd", example=images)
    _, pooled = distiller.teach(images).logits, distiller.teach(images).features["pooled"]
    torch.testing.assert_close(distiller.method.classifier(pooled), theirs[:, [2, 0, 1]])
