"""Model names: the default data set, unknown names, and the forms of external names."""

import subprocess
import sys

import pytest

from dotkd.errors import BadInput
from dotkd.models import create_model, model_names
from dotkd.models.registry import check_model_name


def test_a_bare_name_means_cifar100() -> None:
    assert check_model_name("resnet8x4") == check_model_name("cifar100/resnet8x4") == "cifar100/resnet8x4"
    bare, full = create_model("vgg8", 10), create_model("cifar100/vgg8", 10)
    assert list(bare.state_dict()) == list(full.state_dict())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet8x5", "cifar100/resnet8x4"),
        ("RESNET8X4", "cifar100/resnet8x4"),
        ("mobilenetv1", "imagenet/MobileNetV1"),
        ("wrn-40-2", "cifar100/wrn_40_2"),
        ("imagenet/Resnet43", "imagenet/ResNet34"),
        ("tinyimagenet/ResNet18", "tiny_imagenet/ResNet18"),
        ("small/mlp", "small/mlp16"),
        ("small/mlp33", "small/mlp32"),
        ("mlp32", "small/mlp32"),
        ("mlp64", "small/mlp64"),
        ("small/cnn", "small/cnn[48]"),
        ("", ".*"),
    ],
)
def test_an_unknown_name_gets_the_five_nearest(name: str, nearest: str) -> None:
    with pytest.raises(BadInput, match=f"^unknown model '{name}'; nearest: '{nearest}', ") as caught:
        create_model(name, 10)
    message = str(caught.value)
    assert message.endswith(f" (known: {len(model_names())} models, dotkd.models.model_names() lists them)")
    assert sum(known in message.split("nearest")[1].split("'") for known in model_names()) == 5


@pytest.mark.parametrize("name", ["timm:", "hf:", "timm:@pretrained", "timm:a@b", "timm:../x", "hf: "])
def test_an_incomplete_external_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=f"^unknown model '{name}': .*'{name[:2]}.*@pretrained"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["resnet8:", ":net", "a/b:c", "a:b:c", "9a:b"])
def test_other_names_with_a_colon_are_unknown(name: str) -> None:
    with pytest.raises(BadInput, match=f"^unknown model '{name}'; nearest: "):
        check_model_name(name)


@pytest.mark.slow
def test_names_are_checked_without_the_libraries() -> None:
    code = (
        "import sys\nfrom dotkd.models.registry import check_model_name\n"
        "for name in ('timm:x', 'timm:resnet18.a1_in1k@pretrained', 'hf:a/b', 'hf:./x y', 'a.b:c'):\n"
        "    assert check_model_name(name) == name\n"
        "print(sorted({'timm', 'transformers', 'torchvision'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
