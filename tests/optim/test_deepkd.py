"""DeepKD's three momenta: the paper's update, the released one, and what they make of MultiMomentumSGD."""

import pytest
import torch

from dotkd.optim import MultiMomentumSGD, deepkd_momenta

STEPS, LR, DECAY = 6, 0.05, 0.1
STREAMS = ("task", "target", "others")


def draw(seed):
    """A start and the gradients of each stream in each step, in float64."""
    generator = torch.Generator().manual_seed(seed)
    start, *gradients = torch.randn(1 + 3 * STEPS, 2, 3, generator=generator, dtype=torch.float64)
    return start, [dict(zip(STREAMS, gradients[3 * i : 3 * i + 3], strict=True)) for i in range(STEPS)]


def in_plain_steps(start, gradients, momenta, decayed):
    """The update as it is written: a buffer per stream, the decay in one of them."""
    weight, buffers = start.clone(), dict.fromkeys(STREAMS, 0.0)
    for grads in gradients:
        for name in STREAMS:
            grad = grads[name] + (DECAY * weight if name == decayed else 0)
            buffers[name] = momenta[name] * buffers[name] + grad
        weight = weight - LR * sum(buffers.values())
        yield weight


def with_the_optimizer(start, gradients, linear_loss, momenta, **options):
    weight = torch.nn.Parameter(start.clone())
    opt = MultiMomentumSGD([weight], LR, momenta, momentum=0.9, weight_decay=DECAY, **options)
    for grads in gradients:
        opt.backward(**{name: linear_loss([weight], [grad]) for name, grad in grads.items()})
        opt.step()
        opt.zero_grad()
        yield weight.detach().clone()


def test_the_papers_momenta():
    momenta = deepkd_momenta()
    assert tuple(momenta) == STREAMS  # the task stream is the primary one
    assert momenta == pytest.approx({"task": 0.975, "target": 0.825, "others": 0.975})
    assert deepkd_momenta(0.5, 0.25) == {"task": 0.75, "target": 0.25, "others": 0.75}


def test_the_released_codes_momenta():
    momenta = deepkd_momenta(as_released=True)
    assert tuple(momenta) == STREAMS
    assert momenta == pytest.approx({"task": 0.825, "target": 0.825, "others": 0.975})


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize(("momentum", "delta"), [(0.9, 0.1), (0.05, 0.075), (0.9, -0.2), (float("nan"), 0.0)])
def test_every_momentum_lies_in_its_range(momentum, delta, as_released):
    message = r"momentum - delta and momentum \+ delta must both lie in \[0, 1\), got momentum="
    with pytest.raises(ValueError, match=message):
        deepkd_momenta(momentum, delta, as_released=as_released)


def test_the_optimizer_walks_the_papers_trajectory(kernel, linear_loss):
    start, gradients = draw(0)
    mine = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta(), **kernel)
    momenta = {"task": 0.9 + 0.075, "target": 0.9 - 0.075, "others": 0.9 + 0.075}
    for weight, expected in zip(mine, in_plain_steps(start, gradients, momenta, "task"), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


def test_the_released_update_is_reached_with_the_decay_in_another_stream(linear_loss):
    start, gradients = draw(1)
    mine = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta(as_released=True))
    momenta = {"task": 0.9 - 0.075, "target": 0.9 - 0.075, "others": 0.9 + 0.075}
    for weight, expected in zip(mine, in_plain_steps(start, gradients, momenta, "target"), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


def test_paper_and_code_part_in_the_second_step(linear_loss):
    start, gradients = draw(2)
    paper = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta())
    code = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta(as_released=True))
    gaps = [(p - c).abs().max().item() for p, c in zip(paper, code, strict=True)]
    assert gaps[0] == 0
    # One momentum is 0.15 larger, on a buffer that holds the first gradient and decay.
    first = gradients[0]["task"] + DECAY * start
    assert gaps[1] == pytest.approx(LR * 0.15 * first.abs().max().item(), rel=1e-9)


def test_a_parameter_that_one_loss_reaches_has_plain_momentum():
    alone, both = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    plain = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = MultiMomentumSGD([alone, both], LR, deepkd_momenta(), momentum=0.9, weight_decay=DECAY)
    sgd = torch.optim.SGD([plain], LR, momentum=0.9, weight_decay=DECAY)
    for step in range(4):
        opt.backward(
            task=both.sum(), target=(2 * both).sum(), others=((step - 1.5) * alone + both * both).sum()
        )
        plain.grad = torch.full_like(plain, step - 1.5)
        opt.step()
        sgd.step()
        opt.zero_grad()
    torch.testing.assert_close(alone.detach(), plain.detach(), rtol=1e-12, atol=0)


def test_without_a_delta_it_is_sgd_on_the_sum(linear_loss):
    start, gradients = draw(3)
    plain = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([plain], LR, momentum=0.9, weight_decay=DECAY)
    mine = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta(delta=0.0))
    for weight, grads in zip(mine, gradients, strict=True):
        plain.grad = sum(grads.values())
        sgd.step()
        torch.testing.assert_close(weight, plain.detach(), rtol=1e-12, atol=1e-12)
