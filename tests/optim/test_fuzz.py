"""Random sequences of calls against a plain model in float64: pending gradients, refusals, steps.

The model below knows no phases of ours: it has, for each stream, the sum of the gradients that came in since
the last step or zero_grad, and applies the equations to one parameter after the other.
"""

import copy
import math
import pickle
import random

import pytest
import torch
from torch import nn

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD

SEQUENCES, CALLS = 500, 14
SHAPES = [(3,), (2, 2), (), (1, 3)]


class Boom(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, value):
        return value.clone()

    @staticmethod
    def backward(_ctx, _grad):
        raise MemoryError("no room")


# -------------------------------------------------------------------- the plain model


class Plain:
    """The parameters, their buffers and what is pending, in plain numbers."""

    def __init__(self, kind, streams, groups):
        self.kind, self.streams, self.groups = kind, streams, groups  # groups: options and values
        self.buffers = {}  # (group, position) -> state
        self.used = False  # .grad holds gradients of a step
        self.forget()

    def forget(self):
        self.sums = {name: {} for name in self.streams}
        self.absent = set()  # streams that are None on purpose
        self.open = False  # something came in
        self.taken = False  # the primary gradient is in .grad, not put aside
        self.edited = self.handed = False

    def add(self, stream, grads):
        for place, grad in grads.items():
            old = self.sums[stream].get(place)
            self.sums[stream][place] = grad if old is None else old + grad

    def places(self):
        return [(g, i) for g, group in enumerate(self.groups) for i in range(len(group["values"]))]

    def clip(self, max_norm, mode):
        def norm(of):
            return math.sqrt(sum(float((grad * grad).sum()) for grad in of.values()))

        if mode == "each":
            norms = {name: norm(of) for name, of in self.sums.items()}
        else:
            total = {}
            for of in self.sums.values():
                for place, grad in of.items():
                    total[place] = total.get(place, 0) + grad
            norms = {"joint": norm(total)}
        for name, of in self.sums.items():
            factor = min(1.0, max_norm / (norms[name if mode == "each" else "joint"] + 1e-6))
            self.sums[name] = {place: factor * grad for place, grad in of.items()}
        return norms

    def clip_primary(self, max_norm):
        of = self.sums[self.streams[0]]
        norm = math.sqrt(sum(float((grad * grad).sum()) for grad in of.values()))
        self.sums[self.streams[0]] = {p: min(1.0, max_norm / (norm + 1e-6)) * g for p, g in of.items()}

    def step(self):
        """Take the step, or say that it must be refused."""
        reached = [name for name in self.streams if self.sums[name]]
        missing = [name for name in self.streams if not self.sums[name] and name not in self.absent]
        if reached and missing:
            if any(group["lr"] for group in self.groups):
                return "refused"
            for place in self.places():
                if any(place in of for of in self.sums.values()):
                    self.buffers.setdefault(place, self.fresh(place))
        elif reached:
            for place in self.places():
                grads = {name: of[place] for name, of in self.sums.items() if place in of}
                if grads:
                    (self.adamw if self.kind == "adamw" else self.sgd)(place, grads)
        self.used = self.taken and bool(self.sums[self.streams[0]])
        self.forget()
        return "taken"

    def fresh(self, place):
        value = self.groups[place[0]]["values"][place[1]]
        return {name: torch.zeros_like(value) for name in (*self.streams, "square")} | {"t": {}}

    def momenta(self, group):
        if self.kind == "multi":
            return group["momenta"]
        centre = group["betas"][0] if self.kind == "adamw" else group["momentum"]
        return {"task": centre - group["delta"], "distill": centre + group["delta"]}

    def sgd(self, place, grads):
        group = self.groups[place[0]]
        value = group["values"][place[1]]
        new = place not in self.buffers
        state = self.buffers.setdefault(place, self.fresh(place))
        momenta = self.momenta(group)
        plain = group["momentum"]
        if plain is None:
            plain = sum(momenta.values()) / len(momenta)
        decay, move = group["weight_decay"] * value, torch.zeros_like(value)
        for name, grad in grads.items():
            shared = len(grads) > 1
            m = momenta[name] if shared else plain
            gain = 1.0
            if shared:
                gain = group["gains"].get(name, 1.0) if self.kind == "multi" else group[f"{name}_gain"]
                gain *= (1 - m) / (1 - plain) if group["normalize"] else 1.0
            sign = -1 if group["maximize"] else 1
            entry = gain * (sign * grad + (decay if name == next(iter(grads)) else 0))
            if m == 0:
                move = move + entry
                continue
            state[name] = entry if new else m * state[name] + (1 - group["dampening"]) * entry
            move = move + (entry + m * state[name] if group["nesterov"] else state[name])
        group["values"][place[1]] = value - group["lr"] * move

    def adamw(self, place, grads):
        group = self.groups[place[0]]
        beta2, t = group["betas"][1], self.buffers.setdefault(place, self.fresh(place))["t"]
        state, momenta = self.buffers[place], self.momenta(group)
        total = sum(grads.values())
        t["all"] = t.get("all", 0) + 1
        state["square"] = beta2 * state["square"] + (1 - beta2) * total * total
        root = (state["square"] / (1 - beta2 ** t["all"])).sqrt() + group["eps"]
        value = group["values"][place[1]] * (1 - group["lr"] * group["weight_decay"])
        for name, grad in grads.items():
            beta = momenta[name] if len(grads) > 1 else group["betas"][0]
            t[name] = t.get(name, 0) + 1
            state[name] = beta * state[name] + (1 - beta) * (-grad if group["maximize"] else grad)
            value = value - group["lr"] * (state[name] / (1 - beta ** t[name])) / root
        group["values"][place[1]] = value


# -------------------------------------------------------------------- a sequence of calls


class Sequence:
    """The same calls to an optimizer and to the model."""

    def __init__(self, seed):
        self.random, self.seed = random.Random(seed), seed
        self.zeroed_unseen = False
        self.noise = torch.Generator().manual_seed(seed)
        pick = self.random.choice
        self.kind = pick(["dot", "dot", "multi", "adamw"])
        streams = ("task", "hint", "relation") if self.kind == "multi" else ("task", "distill")
        groups = [self.options() for _ in range(pick([1, 2]))]
        params = [[self.parameter() for _ in range(pick([1, 2, 3]))] for _ in groups]
        rows = [{"params": row, **own} for row, own in zip(params, groups, strict=True)]
        self.opt = self.make(rows, groups[0])
        self.plain = Plain(
            self.kind,
            streams,
            [
                {**own, "values": [p.detach().clone() for p in row]}
                for own, row in zip(groups, params, strict=True)
            ],
        )

    def options(self):
        pick = self.random.choice
        shared = {"lr": pick([0.1, 0.02]), "weight_decay": pick([0.0, 0.1]), "maximize": pick([False, True])}
        if self.kind == "adamw":
            beta, delta = pick([(0.8, 0.1), (0.8, -0.1), (0.0, 0.0)])
            return {**shared, "betas": (beta, 0.95), "delta": delta, "eps": 1e-2}
        nesterov = pick([False, True])
        sgd = {
            "nesterov": nesterov,
            "dampening": 0.0 if nesterov else pick([0.0, 0.3]),
            "normalize": pick([False, True]),
            **pick([{}, {"foreach": True}, {"fused": True}, {"foreach": False}]),
        }
        if self.kind == "multi":
            own = {"momenta": {"task": 0.7, "hint": pick([0.0, 0.5]), "relation": 0.9}}
            return {**shared, **sgd, **own, "momentum": pick([None, 0.8]), "gains": pick([{}, {"hint": 2.0}])}
        own = {"momentum": 0.8, "delta": pick([0.1, -0.1, 0.0]), "task_gain": pick([1.0, 0.5])}
        return {**shared, **sgd, **own, "distill_gain": pick([1.0, 2.0])}

    def make(self, rows, own):
        if self.kind == "adamw":
            return DOTAdamW(rows)
        if self.kind == "multi":
            return MultiMomentumSGD(rows, 0.1, own["momenta"])
        return DOT(rows, lr=0.1)

    def normal(self, shape):
        return torch.randn(shape, generator=self.noise, dtype=torch.float64)

    def parameter(self):
        return nn.Parameter(self.normal(self.random.choice(SHAPES)))

    def at(self, place):
        return self.opt.param_groups[place[0]]["params"][place[1]]

    def module_zero_grad(self, to_none):
        nn.ParameterList([self.at(place) for place in self.plain.places()]).zero_grad(set_to_none=to_none)

    def drawn(self):
        """Return gradients for some parameters, and the loss that has them."""
        places = [place for place in self.plain.places() if self.random.random() < 0.7]
        grads = {place: self.normal(self.at(place).shape) for place in places}
        # A constant without elements keeps a graph where no parameter is reached.
        loss = torch.zeros((), dtype=torch.float64, requires_grad=True) * 1
        for place, grad in grads.items():
            loss = loss + (self.at(place) * grad).sum()
        return grads, loss

    # ---------------------------------------------------------------- calls

    def zero(self, how=None):
        how = how or self.random.choice(["opt", "opt", "opt zeros", "model", "model zeros"])
        plain = self.plain
        # Zeros written onto our zeros count as a gradient, onto edited ones they are one more edit.
        if how == "model zeros" and (plain.handed or plain.edited or not (plain.open or plain.used)):
            how = "model"
        if how.startswith("opt"):
            self.opt.zero_grad(set_to_none=how == "opt")
        else:
            self.module_zero_grad(how == "model")
        self.zeroed_unseen = how == "model zeros" and (plain.used or plain.taken)
        plain.forget()
        plain.used = False

    def refused(self, match, call, *args, **kwargs):
        with pytest.raises(RuntimeError, match=match):
            call(*args, **kwargs)
        self.zero("opt")

    def backward(self, fails=False):
        absent = set()
        if self.random.random() < 0.3:
            absent.add(self.random.choice(self.plain.streams))
        drawn = {name: self.drawn() for name in self.plain.streams if name not in absent}
        losses = {name: drawn[name][1] if name in drawn else None for name in self.plain.streams}
        if self.plain.used:
            return self.refused("still holds", self.opt.backward, **losses)
        if self.plain.edited:
            return self.refused("edited or replaced", self.opt.backward, **losses)
        if fails:
            spoilt = self.random.choice(list(drawn))
            losses[spoilt] = Boom.apply(losses[spoilt])
            with pytest.raises(MemoryError):
                self.opt.backward(**losses)
            return None
        self.opt.backward(**losses)
        for name, (grads, _) in drawn.items():
            self.plain.add(name, grads)
        self.plain.absent |= absent
        self.plain.open = self.plain.taken = True
        return None

    def capture(self):
        plain, primary = self.plain, self.plain.streams[0]
        if plain.used or plain.edited:
            return self.zero("opt")
        if (
            self.zeroed_unseen
        ):  # refused, as nobody can tell a backward pass onto zeros from one onto gradients
            return self.zero("opt")
        if plain.taken:
            if self.random.random() < 0.1:  # forgotten
                grads, loss = self.drawn()
                if not grads:
                    return None
                loss.backward()
                return self.refused("came again", self.opt.capture, plain.streams[1])
            self.opt.capture(primary)
        for name in (*plain.streams[1:], primary):
            grads, loss = self.drawn()
            loss.backward()
            if name != primary:
                self.opt.capture(name)
            plain.add(name, grads)
            plain.open = plain.taken = True
            if self.random.random() < 0.05:  # given up in the middle
                return self.zero()
        if self.random.random() < 0.2:
            self.opt.capture(primary)
            plain.taken = False
        return None

    def clip(self):
        if self.plain.used:
            return None
        if self.plain.edited:
            return self.refused("edited or replaced", self.opt.clip_grad_norm_, 1.0)
        mode, max_norm = self.random.choice(["joint", "each"]), self.random.choice([0.5, 100.0])
        wanted = self.plain.clip(max_norm, mode)
        found = {name: norm.item() for name, norm in self.opt.clip_grad_norm_(max_norm, mode).items()}
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        self.plain.taken = self.plain.open
        return None

    def foreign_clip(self):
        if self.plain.used or not self.plain.open or (self.plain.handed and not self.plain.taken):
            return
        nn.utils.clip_grad_norm_([self.at(place) for place in self.plain.places()], 0.5)
        if self.plain.handed:
            self.plain.clip_primary(0.5)
        else:
            self.plain.edited = True

    def gradients(self):
        if self.plain.used:
            return None
        if self.plain.edited:
            return self.refused("edited or replaced", self.opt.gradients)
        for place, (param, *grads) in zip(self.plain.places(), self.opt.gradients(), strict=True):
            assert param is self.at(place)
            for name, grad in zip(self.plain.streams, grads, strict=True):
                wanted = self.plain.sums[name].get(place)
                assert (grad is None) == (wanted is None), (name, place)
                if grad is not None:
                    assert torch.allclose(grad, wanted, rtol=1e-9, atol=1e-12)
        self.plain.handed = self.plain.open
        return None

    def step(self):
        if self.plain.edited:
            return self.refused("edited or replaced", self.opt.step)
        if self.plain.used:  # the used gradients are the primary ones, and nothing else came in
            if any(group["lr"] for group in self.plain.groups):
                self.refused("gradients but no", self.opt.step)
            return None
        if self.plain.step() == "refused":
            return self.refused("gradients but no", self.opt.step)
        self.opt.step()
        return None

    def schedule(self):
        group = self.random.randrange(len(self.plain.groups))
        new = {"lr": self.random.choice([0.0, 0.05, 0.1])}
        if self.random.random() < 0.3:
            new = {"weight_decay": 0.05}
        for each in self.random.choice([[group], range(len(self.plain.groups))]):
            self.plain.groups[each].update(new)
            self.opt.param_groups[each].update(new)

    def travel(self):
        how = self.random.choice(["state", "deepcopy", "pickle"])
        if how == "state":
            self.opt.load_state_dict(copy.deepcopy(self.opt.state_dict()))
        elif how == "deepcopy":
            self.opt = copy.deepcopy(self.opt)
        else:
            self.opt = pickle.loads(pickle.dumps(self.opt))
        self.plain.forget()
        self.plain.used = False

    def grow(self):
        own = self.options()
        if self.kind == "multi":
            own["momenta"] = dict(own["momenta"])
        param = self.parameter()
        self.opt.add_param_group({"params": [param], **copy.deepcopy(own)})
        self.plain.groups.append({**own, "values": [param.detach().clone()]})

    def annotate(self):
        place = self.random.choice(self.plain.places())
        self.opt.state[self.at(place)]["slow_buffer"] = torch.ones(7)

    def check(self):
        for place in self.plain.places():
            param = self.at(place)
            wanted = self.plain.groups[place[0]]["values"][place[1]]
            assert torch.allclose(param, wanted, rtol=1e-9, atol=1e-10)
            state = {k: v for k, v in self.opt.state.get(param, {}).items() if k != "slow_buffer"}
            assert bool(state) == (place in self.plain.buffers)
            for name in self.plain.streams if state else ():
                key = f"{name}_exp_avg" if self.kind == "adamw" else f"{name}_momentum_buffer"
                mine = self.plain.buffers[place][name]
                assert torch.allclose(state[key], mine, rtol=1e-9, atol=1e-10)

    CALLS = (
        *["backward"] * 6,
        *["capture"] * 5,
        *["step"] * 7,
        *["zero"] * 4,
        *["clip", "foreign_clip", "gradients", "failing", "travel", "schedule", "grow", "annotate"],
    )

    def run(self):
        done = []
        for _ in range(CALLS):
            name = self.random.choice(self.CALLS)
            done.append(name)
            try:
                self.backward(fails=True) if name == "failing" else getattr(self, name)()
                self.check()
                self.zeroed_unseen &= name in (
                    "zero",
                    "capture",
                    "schedule",
                    "grow",
                    "annotate",
                    "foreign_clip",
                )
            except BaseException as error:
                error.add_note(f"seed {self.seed}, {self.kind}: {done}")
                raise


@pytest.mark.parametrize("block", range(5))
def test_random_sequences_of_calls(block):
    for seed in range(block * SEQUENCES // 5, (block + 1) * SEQUENCES // 5):
        Sequence(seed).run()
