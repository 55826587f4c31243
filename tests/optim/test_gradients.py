"""How gradients are kept: apart, accumulated, never edited in the user's hands, dropped in time."""

import copy

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD, ReferenceDOT

from .common import OPTIONS, Student, batches, bits, equal, feed, losses, pairs, reference, same


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student().double()


# -------------------------------------------------------------------- apart


def test_grad_is_the_task_gradient_and_gradients_yields_all_triples(student):
    opt = DOT(student.parameters(), **OPTIONS)
    (batch,) = batches(1)
    want = pairs(student, batch)
    task, distill = losses(student, batch)
    opt.backward(task=task, distill=distill)
    triples = list(opt.gradients())
    assert [param for param, _, _ in triples] == list(student.parameters())
    for (param, g_task, g_distill), w_task, w_distill in zip(triples, *want, strict=True):
        assert g_task is param.grad
        for got, expected in ((g_task, w_task), (g_distill, w_distill)):
            assert (got is None) == (expected is None)
            assert got is None or torch.equal(got, expected)
    reach = {
        name: (p.grad is None, d is None)
        for (name, p), (_, _, d) in zip(student.named_parameters(), triples, strict=True)
    }
    assert reach["body.weight"] == (False, False)
    assert reach["head.weight"] == (False, True)
    assert reach["project.weight"] == (True, False)


def test_gradients_of_three_streams_come_in_their_order():
    weight = nn.Parameter(torch.tensor([1.0]))
    opt = MultiMomentumSGD([weight], 0.1, {"task": 0.9, "hint": 0.5, "relation": 0.1})
    opt.backward(relation=4 * weight.sum(), task=2 * weight.sum(), hint=3 * weight.sum())
    assert [[g.item() for g in row[1:]] for row in opt.gradients()] == [[2.0, 3.0, 4.0]]


def test_gradients_before_anything_are_none(student):
    opt = DOT(student.parameters(), **OPTIONS)
    assert all(row[1:] == (None, None) for row in opt.gradients())


@pytest.mark.parametrize("path", ["backward", "capture"])
def test_trajectory_is_the_papers(student, path):
    steps = batches(5)
    want = reference(student, steps)
    opt = DOT(student.parameters(), **OPTIONS)
    for batch in steps:
        feed(opt, path, [losses(student, batch)])
        opt.step()
        opt.zero_grad()
    same(student, want)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("path", ["backward", "capture"])
def test_micro_batches_are_one_big_batch(student, path, parts):
    steps = batches(3, size=8)
    want = reference(student, steps)
    opt = DOT(student.parameters(), **OPTIONS)
    for batch in steps:
        micro = zip(*(tensor.chunk(parts) for tensor in batch), strict=True)
        feed(opt, path, ([loss / parts for loss in losses(student, part)] for part in micro))
        opt.step()
        opt.zero_grad()
    same(student, want)


def test_capture_task_after_the_last_micro_batch_is_as_good(student):
    (batch,) = batches(1)
    want = reference(student, [batch])
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "capture", [losses(student, batch)])
    opt.capture_task()
    # At most a marker is left in .grad, which is no gradient.
    assert not any(param.grad is not None and param.grad.any() for param in student.parameters())
    opt.step()
    same(student, want)


def test_captures_of_three_streams_are_backward_of_three_streams():
    def run(feed_in):
        weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        opt = MultiMomentumSGD([weight], 0.1, {"task": 0.9, "hint": 0.5, "relation": 0.1})
        for _ in range(3):
            for _ in range(2):
                feed_in(opt)
            opt.step()
            opt.zero_grad()
        return weight.detach()

    def three(opt):
        (weight,) = opt.param_groups[0]["params"]
        return weight.square().sum(), weight.prod(), weight.exp().sum()

    def by_capture(opt):
        task, hint, relation = three(opt)
        hint.backward(retain_graph=True)
        opt.capture("hint")
        relation.backward(retain_graph=True)
        opt.capture("relation")
        task.backward(retain_graph=True)
        opt.capture("task")

    def by_backward(opt):
        task, hint, relation = three(opt)
        opt.backward(task=task, hint=hint, relation=relation)

    assert torch.allclose(run(by_capture), run(by_backward), rtol=1e-13)


# -------------------------------------------------------------------- the user's tensors


def test_capture_replaces_the_users_gradients(student):
    opt = DOT(student.parameters(), **OPTIONS)
    first, second = batches(2)
    kept = []
    for i, batch in enumerate((first, second)):
        task, distill = losses(student, batch)
        if i:
            opt.capture_task()
        distill.backward(retain_graph=True)
        kept.append([p.grad for p in student.parameters() if p.grad is not None])
        before = bits(kept[-1])
        opt.capture_distill()
        task_before = [p.grad for p in student.parameters() if p.grad is not None]
        assert not {id(g) for g in task_before} & {id(g) for g in kept[-1]}
        assert equal(kept[-1], before)
        task.backward()
        assert equal(kept[-1], before)
    final = [p.grad for p in student.parameters() if p.grad is not None]
    saved = [bits(kept[0]), bits(kept[1]), bits(final)]
    opt.step()
    assert equal(kept[0], saved[0])
    assert equal(kept[1], saved[1])
    assert equal(final, saved[2])


@pytest.mark.parametrize("mode", ["joint", "each"])
def test_clipping_replaces_the_users_gradients(student, mode):
    opt = DOT(student.parameters(), **OPTIONS)
    (batch,) = batches(1)
    feed(opt, "backward", [losses(student, batch)])
    held = [g for _, *both in opt.gradients() for g in both if g is not None]
    before = bits(held)
    opt.clip_grad_norm_(1e-3, mode)
    opt.step()
    assert equal(held, before)
    after = [g for p in student.parameters() if (g := p.grad) is not None]
    assert all(g.norm() < 1e-3 for g in after)


@pytest.mark.parametrize("kernel", [{"foreach": True}, {"fused": True}, {"foreach": False, "fused": False}])
@pytest.mark.parametrize(
    "options", [{"maximize": True}, {"nesterov": True}, {"normalize": True}, {"task_gain": 0.5}]
)
def test_a_step_edits_no_gradient(student, options, kernel):
    opt = DOT(student.parameters(), **OPTIONS, **options, **kernel)
    for batch in batches(2):
        feed(opt, "backward", [losses(student, batch)])
        held = [g for _, *both in opt.gradients() for g in both if g is not None]
        before = bits(held)
        opt.step()
        assert equal(held, before)
        opt.zero_grad()
        assert equal(held, before)


def test_scaled_backward_leaves_the_users_tensors(student):
    student.float()
    opt = DOT(student.parameters(), **OPTIONS)
    scaler = torch.amp.GradScaler("cpu", init_scale=1000.0)
    images, labels, target = batches(1)[0]
    task, distill = losses(student, (images.float(), labels, target.float()))
    scaler.scale(distill).backward(retain_graph=True)
    held = [p.grad for p in student.parameters() if p.grad is not None]
    before = bits(held)
    opt.capture_distill(scaler=scaler)
    scaler.scale(task).backward()
    scaler.step(opt)
    assert equal(held, before)


def test_what_lay_in_grad_before_is_part_of_the_task_gradient(student):
    (batch,) = batches(1)
    mine = [torch.full_like(p, 2.0) for p in student.parameters()]
    for param, grad in zip(student.parameters(), mine, strict=True):
        param.grad = grad.clone()
    opt = DOT(student.parameters(), **OPTIONS)
    want = pairs(student, batch)
    feed(opt, "backward", [losses(student, batch)])
    for param, grad, task in zip(student.parameters(), mine, want[0], strict=True):
        assert torch.allclose(param.grad, grad if task is None else grad + task)


def test_a_gradient_that_is_a_view_is_copied_out_of_its_bucket():
    weight = nn.Parameter(torch.ones(3))
    opt = DOT([weight], lr=0.1, momentum=0.5, delta=0.25)
    bucket = torch.tensor([0.0, 1.0, 2.0, 3.0])
    weight.grad = bucket[1:]
    opt.capture_distill()
    bucket.fill_(100.0)  # the next backward pass fills the bucket again
    weight.grad = torch.zeros(3)
    ((_, task, distill),) = opt.gradients()
    assert distill.tolist() == [1.0, 2.0, 3.0]
    assert task.tolist() == [0.0, 0.0, 0.0]


# -------------------------------------------------------------------- two captures, missing sets, consent


def test_two_captures_without_capture_task_raise_and_name_it(student):
    opt = DOT(student.parameters(), **OPTIONS)
    first, second = batches(2)
    feed(opt, "capture", [losses(student, first)])
    losses(student, second)[1].backward()
    with pytest.raises(
        RuntimeError, match=r"capture_distill\(\) came again while .*: call capture_task\(\) after"
    ):
        opt.capture_distill()


def test_two_captures_of_a_named_stream_raise():
    weight = nn.Parameter(torch.ones(2))
    opt = MultiMomentumSGD([weight], 0.1, {"task": 0.9, "hint": 0.5})
    weight.sum().backward()
    opt.capture("hint")
    weight.sum().backward()
    with pytest.raises(RuntimeError, match=r"capture\('hint'\) came again while .*call capture\('task'\)"):
        opt.capture("hint")


def test_capture_after_backward_does_not_take_the_task_gradient_for_distillation(student):
    opt = DOT(student.parameters(), **OPTIONS)
    first, second = batches(2)
    feed(opt, "backward", [losses(student, first)])
    losses(student, second)[1].backward()  # on top of the task gradient in .grad
    with pytest.raises(RuntimeError, match=r"capture_task\(\)"):
        opt.capture_distill()


def test_capture_task_between_two_backwards_loses_nothing(student):
    opt = DOT(student.parameters(), **OPTIONS)
    first, second = batches(2)
    want = [pairs(student, first), pairs(student, second)]
    feed(opt, "backward", [losses(student, first)])
    opt.capture_task()
    feed(opt, "backward", [losses(student, second)])
    for i, (_, task, distill) in enumerate(opt.gradients()):
        for got, stream in ((task, 0), (distill, 1)):
            if want[0][stream][i] is not None:
                assert torch.allclose(got, want[0][stream][i] + want[1][stream][i])


@pytest.mark.parametrize("stream", ["task", "distill"])
def test_one_loss_with_consent_is_plain_momentum(student, stream):
    twin = copy.deepcopy(student)
    opt = DOT(student.parameters(), **OPTIONS)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    index = ("task", "distill").index(stream)
    for batch in batches(4):
        given = {"task": None, "distill": None, stream: losses(student, batch)[index]}
        opt.backward(**given)
        opt.step()
        opt.zero_grad()
        losses(twin, batch)[index].backward()
        sgd.step()
        sgd.zero_grad()
    same(student, twin)


def test_consent_covers_this_step_only(student):
    opt = DOT(student.parameters(), **OPTIONS)
    first, second = batches(2)
    opt.backward(task=losses(student, first)[0], distill=None)
    opt.step()
    opt.zero_grad()
    losses(student, second)[0].backward()
    with pytest.raises(RuntimeError, match="no distillation gradient"):
        opt.step()


def test_dropped_gradients_drop_their_consent(student):
    opt = DOT(student.parameters(), **OPTIONS)
    first, second = batches(2)
    opt.backward(task=losses(student, first)[0], distill=None)
    opt.zero_grad()
    losses(student, second)[0].backward()
    with pytest.raises(RuntimeError, match="no distillation gradient"):
        opt.step()


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (
            0,
            (
                r"step\(\) has task gradients but no distillation gradient: call opt\.backward\(task=\.\.\., "
                r"distill=\.\.\.\) or, .*opt\.capture_distill\(\) before task\.backward\(\).*"
                r"opt\.backward\(task=\.\.\., distill=None\)"
            ),
        ),
        (
            1,
            (
                r"step\(\) has distillation gradients but no task gradient: .*opt\.capture_distill\(\), "
                r"task\.backward\(\).*opt\.backward\(distill=\.\.\., task=None\)"
            ),
        ),
    ],
)
def test_step_with_one_set_raises_and_changes_nothing(student, index, text):
    opt = DOT(student.parameters(), **OPTIONS)
    losses(student, batches(1)[0])[index].backward()
    if index:
        opt.capture_distill()
    before = bits(student.parameters())
    with pytest.raises(RuntimeError, match=text):
        opt.step()
    assert equal(student.parameters(), before)
    assert not opt.state


def test_step_with_a_missing_stream_of_three_names_it():
    weight = nn.Parameter(torch.ones(2))
    opt = MultiMomentumSGD([weight], 0.1, {"task": 0.9, "hint": 0.5, "relation": 0.1})
    weight.sum().backward()
    with pytest.raises(
        RuntimeError, match=r"has task gradients but no hint gradient.*capture\('hint'\).*hint=None"
    ):
        opt.step()


@pytest.mark.parametrize("kind", [DOT, DOTAdamW])
def test_nothing_at_all_is_a_no_op(student, kind):
    opt = kind(student.parameters(), lr=0.1, weight_decay=0.1)
    before = bits(student.parameters())
    assert opt.step() is None
    opt.zero_grad()
    opt.step()
    assert equal(student.parameters(), before)
    assert not opt.state


# -------------------------------------------------------------------- zero_grad


def test_zeroed_gradients_count_as_absent(student):
    steps = batches(4)
    want = reference(student, steps)
    opt = DOT(student.parameters(), **OPTIONS)
    for batch in steps:
        feed(opt, "backward", [losses(student, batch)])
        opt.step()
        opt.zero_grad(set_to_none=False)
        assert all(p.grad is None or not p.grad.any() for p in student.parameters())
        assert all(row[1:] == (None, None) for row in opt.gradients())
    same(student, want)


def test_zeroed_gradients_count_as_absent_for_captures(student):
    steps = batches(4)
    want = reference(student, steps)
    opt = DOT(student.parameters(), **OPTIONS)
    for batch in steps:
        feed(opt, "capture", [losses(student, batch)])
        opt.step()
        opt.zero_grad(set_to_none=False)
    same(student, want)


def test_a_zeroed_gradient_that_one_loss_leaves_alone_is_no_shared_one():
    # The user filled .grad of a parameter that only distillation reaches; zeroed, it must not count.
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    other = nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = DOT([weight, other], lr=0.1, weight_decay=0.5)
    weight.grad, other.grad = torch.ones_like(weight), torch.ones_like(other)
    gradients = weight.grad, other.grad
    opt.zero_grad(set_to_none=False)
    assert weight.grad is gradients[0]
    assert not gradients[0].any()
    (2 * weight.sum()).backward()
    opt.capture_distill()
    (3 * other.sum()).backward()
    assert [(t is None, d is None) for _, t, d in opt.gradients()] == [(True, False), (False, True)]
    opt.step()
    params = [torch.ones(2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    dot = ReferenceDOT(params, lr=0.1, weight_decay=0.5)
    dot.step([None, torch.full_like(params[1], 3.0)], [torch.full_like(params[0], 2.0), None])
    same_tensors = zip((weight, other), params, strict=True)
    assert all(torch.allclose(a, b, rtol=1e-15) for a, b in same_tensors)


def test_a_zeroed_gradient_that_was_written_to_counts_even_as_zero():
    weight = nn.Parameter(torch.ones(2))
    opt = DOT([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.ones(2)
    opt.zero_grad(set_to_none=False)
    (0 * weight.sum()).backward()
    assert next(iter(opt.gradients()))[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("path", ["backward", "capture"])
def test_model_zero_grad_instead(student, path):
    steps = batches(4)
    want = reference(student, steps)
    opt = DOT(student.parameters(), **OPTIONS)
    for batch in steps:
        student.zero_grad()
        feed(opt, path, [losses(student, batch)])
        opt.step()
    same(student, want)


def test_model_zero_grad_gives_up_a_batch(student):
    first, second = batches(2)
    want = reference(student, [second])
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, first)])
    student.zero_grad()
    feed(opt, "backward", [losses(student, second)])
    opt.step()
    same(student, want)


@pytest.mark.parametrize("path", ["backward", "capture"])
def test_zero_grad_gives_up_a_batch(student, path):
    first, second = batches(2)
    want = reference(student, [second])
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, path, [losses(student, first)])
    opt.zero_grad()
    feed(opt, path, [losses(student, second)])
    opt.step()
    same(student, want)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("path", ["backward", "capture"])
def test_forgotten_zero_grad_raises(student, path, clip):
    opt = DOT(student.parameters(), **OPTIONS)
    first, second = batches(2)
    feed(opt, path, [losses(student, first)])
    if clip:
        opt.clip_grad_norm_(1.0)
    opt.step()
    with pytest.raises(
        RuntimeError, match=r"\.grad still holds .*last step\(\) used: call opt\.zero_grad\(\)"
    ):
        feed(opt, path, [losses(student, second)])
    opt.zero_grad()
    feed(opt, path, [losses(student, second)])
    opt.step()


def test_a_second_step_on_the_same_gradients_raises(student):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, batches(1)[0])])
    opt.step()
    with pytest.raises(RuntimeError, match="no distillation gradient"):
        opt.step()


# -------------------------------------------------------------------- what cannot be a loss


@pytest.mark.parametrize("stream", ["task", "distill"])
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda loss: loss.detach(),
            ValueError,
            r"loss has no graph.*detached.*weight of 0\? .* is {0}=None",
        ),
        (lambda _: torch.tensor(0.0), ValueError, r"the {0} loss has no graph"),
        (lambda loss: loss.expand(3), ValueError, r"the {0} loss must be one number, got shape \(3,\)"),
        (lambda _: 0.0, TypeError, r"the {0} loss must be a tensor or None, got float"),
    ],
)
def test_bad_losses(student, stream, make, error, text):
    opt = DOT(student.parameters(), **OPTIONS)
    both = dict(zip(("task", "distill"), losses(student, batches(1)[0]), strict=True))
    both[stream] = make(both[stream])
    with pytest.raises(error, match=text.format(stream)):
        opt.backward(**both)
    assert all(row[1:] == (None, None) for row in opt.gradients())


def test_a_loss_of_shape_one_is_fine():
    weight = nn.Parameter(torch.ones(1))
    opt = DOT([weight], lr=0.1)
    opt.backward(task=2 * weight, distill=3 * weight)
    opt.step()
    assert weight.item() == pytest.approx(0.5)


def test_both_losses_none(student):
    opt = DOT(student.parameters(), **OPTIONS)
    with pytest.raises(ValueError, match=r"all losses are None: give at least one of \('task', 'distill'\)"):
        opt.backward(task=None, distill=None)


def test_missing_and_positional_keywords(student):
    opt = DOT(student.parameters(), **OPTIONS)
    task, distill = losses(student, batches(1)[0])
    with pytest.raises(TypeError, match="distill"):
        opt.backward(task=task)
    with pytest.raises(TypeError, match="task"):
        opt.backward(distill=distill)
    with pytest.raises(TypeError, match="distil'"):
        opt.backward(task=task, distil=distill)
    with pytest.raises(TypeError, match="positional"):
        opt.backward(task, distill)


def test_streams_of_a_multi_momentum_optimizer_are_checked():
    weight = nn.Parameter(torch.ones(2))
    opt = MultiMomentumSGD([weight], 0.1, {"task": 0.9, "hint": 0.5, "relation": 0.1})
    loss = weight.sum()
    with pytest.raises(
        ValueError, match=r"unknown loss 'hnt'; did you mean 'hint'\?: one of \('task', 'hint', 'rel"
    ):
        opt.backward(task=loss, hnt=loss, relation=loss)
    with pytest.raises(ValueError, match=r"no loss given for \['hint', 'relation'\]: pass None"):
        opt.backward(task=loss)
    with pytest.raises(ValueError, match=r"unknown stream 'relations'; did you mean 'relation'\?: one of"):
        opt.capture("relations")
    opt.backward(task=loss, hint=None, relation=weight.prod())
    assert [g is None for g in next(iter(opt.gradients()))[1:]] == [False, True, False]
    opt.step()


def test_sparse_gradients_raise():
    table = nn.Embedding(5, 2, sparse=True)
    opt = DOT(table.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=r"sparse gradients are not supported, got one of shape \(5, 2\)"):
        opt.backward(task=table(torch.tensor([1])).sum(), distill=table(torch.tensor([2])).sum())
    opt.zero_grad()
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        opt.capture_distill()


# ------------------------------------------------------------ skipped steps, failed passes, late parameters


def two_weights():
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((2,), 2.0))]
    return weights, DOT(weights, lr=0.1)


def both_losses(weights, task=2.0, distill=3.0):
    return {"task": task * sum(w.sum() for w in weights), "distill": distill * sum(w.sum() for w in weights)}


def seen(opt):
    return [
        tuple(None if g is None else g.unique().tolist() for g in row[1:]) for row in list(opt.gradients())
    ]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("to_none", [False, True])
def test_a_skipped_step_and_model_zero_grad_drop_the_distillation_set(to_none, scaled):
    weights, opt = two_weights()
    scaler = GradScaler("cpu", init_scale=4.0) if scaled else None
    opt.backward(**both_losses(weights, distill=100.0), scaler=scaler)
    nn.ParameterList(weights).zero_grad(set_to_none=to_none)
    opt.backward(**both_losses(weights), scaler=scaler)
    assert seen(opt) == [([8.0 if scaled else 2.0], [3.0])] * 2


def test_an_overflow_is_forgotten_with_the_gradients_that_had_it():
    weights, opt = two_weights()
    scaler = GradScaler("cpu", init_scale=2.0)
    opt.backward(**both_losses(weights, distill=float("inf")), scaler=scaler)
    scaler.step(opt)
    scaler.update()
    nn.ParameterList(weights).zero_grad(set_to_none=False)
    opt.backward(**both_losses(weights), scaler=scaler)
    scaler.step(opt)
    assert weights[0].tolist() == pytest.approx([0.5] * 3)


def test_model_zero_grad_to_zeros_after_a_step_is_enough_and_leaves_no_gradient_behind():
    weights, opt = two_weights()
    for _ in range(2):
        opt.backward(**both_losses(weights))
        opt.step()
        nn.ParameterList(weights).zero_grad(set_to_none=False)
    opt.backward(task=None, distill=both_losses(weights)["distill"])
    assert seen(opt) == [(None, [3.0])] * 2


@pytest.mark.parametrize("fails", ["task", "distill"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_failed_pass_leaves_everything_as_it_was(fails, scaled):
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x):
            return x.clone()

        @staticmethod
        def backward(_ctx, _grad):
            raise MemoryError("no room for this batch")

    weights, opt = two_weights()
    scaler = GradScaler("cpu", init_scale=4.0) if scaled else None
    opt.backward(**both_losses(weights), scaler=scaler)
    before = seen(opt)
    worse = both_losses(weights)
    worse[fails] = worse[fails] + Fails.apply(weights[0]).sum()
    with pytest.raises(MemoryError, match="no room"):
        opt.backward(**worse, scaler=scaler)
    assert seen(opt) == before
    opt.backward(**both_losses(weights), scaler=scaler)
    assert seen(opt) == [([4.0 * (4 if scaled else 1)], [6.0])] * 2


def test_a_failed_first_call_leaves_nothing():
    weights, opt = two_weights()
    freed = weights[0].square().sum()
    freed.backward()
    weights[0].grad = None
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        opt.backward(task=freed, distill=both_losses(weights)["distill"])
    assert all(w.grad is None for w in weights)
    assert seen(opt) == [(None, None)] * 2


def test_a_replaced_gradient_between_micro_batches_is_refused():
    weights, opt = two_weights()
    scaler = GradScaler("cpu", init_scale=4.0)
    opt.backward(**both_losses(weights), scaler=scaler)
    for weight in weights:
        weight.grad = weight.grad * 0.5
    with pytest.raises(RuntimeError, match=r"\.grad was edited or replaced.*opt\.zero_grad\(\)"):
        opt.backward(**both_losses(weights), scaler=scaler)
    opt.zero_grad()
    opt.backward(**both_losses(weights), scaler=scaler)
    assert seen(opt) == [([8.0], [3.0])] * 2


def test_reading_the_gradients_between_micro_batches_changes_nothing():
    weights, opt = two_weights()
    for _ in range(2):
        for name, park in (("distill", opt.capture_distill), ("task", opt.capture_task)):
            both_losses(weights)[name].backward()
            park()
            list(opt.gradients())
    assert seen(opt) == [([4.0], [6.0])] * 2
    opt.step()
    assert weights[0].tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_clipping_between_micro_batches_and_a_forgotten_capture_task_is_an_error():
    weights, opt = two_weights()
    both_losses(weights)["distill"].backward()
    opt.capture_distill()
    both_losses(weights)["task"].backward()
    opt.capture_task()
    opt.clip_grad_norm_(1e6)
    both_losses(weights)["distill"].backward()
    with pytest.raises(RuntimeError, match="call capture_task"):
        opt.capture_distill()


def test_clipping_scaled_gradients_that_are_parked_is_an_error():
    weights, opt = two_weights()
    scaler = GradScaler("cpu", init_scale=4.0)
    scaler.scale(both_losses(weights)["distill"]).backward()
    opt.capture_distill(scaler=scaler)
    scaler.scale(both_losses(weights)["task"]).backward()
    opt.capture_task()
    with pytest.raises(RuntimeError, match="leave the last one in"):
        opt.clip_grad_norm_(1.0)


def test_parameters_added_between_backward_and_step_have_no_gradient_yet():
    weights, opt = two_weights()
    opt.backward(**both_losses(weights))
    late = nn.Parameter(torch.ones(1))
    opt.add_param_group({"params": [late]})
    assert seen(opt) == [([2.0], [3.0])] * 2 + [(None, None)]
    opt.clip_grad_norm_(1e6)
    opt.backward(**both_losses([*weights, late]))
    assert seen(opt) == [([4.0], [6.0])] * 2 + [([2.0], [3.0])]
    opt.step()
    assert late.item() == pytest.approx(0.5)


def test_loading_a_state_remembers_which_zeros_are_no_gradient():
    weights, opt = two_weights()
    opt.backward(**both_losses(weights))
    opt.step()
    opt.zero_grad(set_to_none=False)
    opt.load_state_dict(opt.state_dict())
    opt.backward(task=None, distill=both_losses(weights)["distill"])
    assert seen(opt) == [(None, [3.0])] * 2
