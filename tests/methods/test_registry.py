"""Methods by name: what is registered, what a user adds, and what a misspelling is told."""

import re

import pytest
import torch

from dotkd.methods import (
    FunctionMethod,
    Method,
    Outputs,
    create_method,
    has_teacher,
    method_names,
    method_options,
    register,
    registry,
)


@pytest.fixture(autouse=True)
def registered_for_one_test(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def outputs(value):
    return Outputs(torch.full((2, 3), float(value)))


LABELS = torch.zeros(2, dtype=torch.int64)


def test_names_and_options():
    assert {"kd", "dkd"} <= set(method_names())
    assert method_names() == sorted(method_names())
    weights = ["task_weight", "distill_weight", "warmup"]
    assert list(method_options("kd")) == ["temperature", "standardize", *weights]
    assert list(method_options("dkd")) == ["alpha", "beta", "temperature", *weights]


@pytest.mark.parametrize("name", [name for name in sorted(registry._ENTRIES) if has_teacher(name)])
def test_every_method_states_its_needs_and_takes_the_weights(name):
    options = method_options(name)
    assert {"task_weight", "distill_weight", "warmup"} <= options.keys()
    if any(p.default is p.empty for p in options.values()):
        pytest.skip("has options without a default")
    method = create_method(name, task_weight=0.25, distill_weight=3.0, warmup=0.5)
    assert (method.task_weight, method.distill_weight, method.warmup) == (0.25, 3.0, 0.5)
    assert isinstance(method.needs, tuple)
    assert method.needs


def test_a_method_is_one_small_class():
    @register("scaled")
    class Scaled(Method):
        def __init__(self, *, scale, **weights):
            super().__init__(**weights)
            self.scale = scale

        def forward(self, student, teacher, target, *, index, progress):  # noqa: ARG002
            return self.scale * (student.logits - teacher.logits).abs().mean()

    method = create_method("scaled", scale=2.0, distill_weight=0.5)
    assert type(method) is Scaled
    assert method(outputs(0), outputs(3), LABELS, index=None, progress=0.0) == 6
    assert method.distill_weight == 0.5
    with pytest.raises(ValueError, match="method 'scaled' needs the option 'scale'"):
        create_method("scaled")
    with pytest.raises(ValueError, match="unknown option of method 'scaled' 'warmpu'; nearest: 'warmup'"):
        create_method("scaled", scale=1.0, warmpu=0.1)


def test_a_method_is_one_function():
    @register("gap", needs=("logits", "block"))
    def gap(student, teacher, target, *, scale=1.0):
        return scale * (student.logits - teacher.logits).abs().mean()

    assert gap(outputs(0), outputs(1), LABELS) == 1  # the function itself is left as it was
    method = create_method("gap", scale=4.0, task_weight=0.5)
    assert isinstance(method, FunctionMethod)
    assert method.needs == ("logits", "block")
    assert method(outputs(0), outputs(1), LABELS, index=None, progress=0.0) == 4
    assert repr(method) == "FunctionMethod(gap, task_weight=0.5, distill_weight=1, warmup=0)"
    assert create_method("gap").needs == ("logits", "block")


@pytest.mark.parametrize("name", ["index", "progress"])
def test_a_function_gets_the_context_that_it_names(name):
    seen = {}

    def takes_index(student, teacher, target, *, index):
        seen.update(index=index)
        return student.logits.mean()

    def takes_progress(student, teacher, target, progress):
        seen.update(progress=progress)
        return student.logits.mean()

    function = {"index": takes_index, "progress": takes_progress}[name]
    FunctionMethod(function)(outputs(0), outputs(0), LABELS, index=LABELS, progress=0.5)
    assert list(seen) == [name]


def test_what_cannot_be_registered():
    with pytest.raises(ValueError, match="a method named 'kd' is registered already"):
        register("kd")
    with pytest.raises(TypeError, match="Unrelated must be a subclass of Method or a function"):

        @register("unrelated")
        class Unrelated:
            pass

    with pytest.raises(TypeError, match="Own is a class: set its attribute needs instead"):

        @register("own", needs=("block",))
        class Own(Method):
            pass

    with pytest.raises(ValueError, match=r"\['warmup'\] belong to every method"):

        @register("clash")
        def clash(student, teacher, target, *, warmup=0.0):
            return student.logits.sum()

    assert not {"unrelated", "own", "clash"} & set(method_names())


@pytest.mark.parametrize(("name", "nearest"), [("dkdd", "dkd"), ("KD", "kd")])
def test_an_unknown_name_hears_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown method '{name}'; nearest: '{nearest}' .known: .*kd"):
        create_method(name)
    with pytest.raises(ValueError, match=f"unknown method '{name}'"):
        method_options(name)


def test_an_unknown_option_hears_the_nearest():
    message = (
        "unknown option of method 'kd' 'temprature'; nearest: 'temperature' "
        "(known: distill_weight, standardize, task_weight, temperature, warmup)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        create_method("kd", temprature=2.0)


def test_a_method_without_forward_is_abstract():
    class Empty(Method):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Empty()
