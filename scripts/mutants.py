"""Break the optimizer one line at a time and see whether the tests notice.

Each mutant is one replacement in a copy of the package, on which the optimizer's tests run until the first
failure. A mutant that survives is a hole in the tests, and the script then exits with 1.

    python scripts/mutants.py [--only WORD]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    """One broken line."""

    name: str
    file: str
    line: str
    broken: str


MUTANTS = [
    Mutant(
        "task momentum without delta",
        "sgd.py",
        'return {"task": momentum - delta, "distill": momentum + delta}',
        'return {"task": momentum, "distill": momentum + delta}',
    ),
    Mutant(
        "streams swapped",
        "sgd.py",
        'return {"task": momentum - delta, "distill": momentum + delta}',
        'return {"task": momentum + delta, "distill": momentum - delta}',
    ),
    Mutant(
        "one-loss parameters with the shifted momentum",
        "sgd.py",
        "momentum = momenta[name] if several else plain",
        "momentum = momenta[name]",
    ),
    Mutant(
        "gains on one-loss parameters",
        "sgd.py",
        "gain = self._gain(group, name) if several else 1.0",
        "gain = self._gain(group, name)",
    ),
    Mutant(
        "no decay for distillation-only parameters",
        "sgd.py",
        'weight_decay=gain * group["weight_decay"] if name == first else 0.0,',
        'weight_decay=gain * group["weight_decay"] if name == self.streams[0] else 0.0,',
    ),
    Mutant(
        "decay in both streams",
        "sgd.py",
        'weight_decay=gain * group["weight_decay"] if name == first else 0.0,',
        'weight_decay=gain * group["weight_decay"],',
    ),
    Mutant(
        "decay without the gain",
        "sgd.py",
        'weight_decay=gain * group["weight_decay"] if name == first else 0.0,',
        'weight_decay=group["weight_decay"] if name == first else 0.0,',
    ),
    Mutant(
        "normalize upside down",
        "sgd.py",
        "gain *= (1 - momentum) / (1 - plain)",
        "gain *= (1 - plain) / (1 - momentum)",
    ),
    Mutant(
        "the first group's delta for all",
        "sgd.py",
        'momentum, delta = group["momentum"], group["delta"]',
        'momentum, delta = group["momentum"], self.param_groups[0]["delta"]',
    ),
    Mutant(
        "buffers only where a gradient arrived",
        "sgd.py",
        "            for param, state in zip(params, states, strict=True):\n"
        "                self._init_state(param, state)",
        "            pass",
    ),
    Mutant(
        "nesterov edits the gradients",
        "sgd.py",
        "if gain != 1.0 or foreach_may_edit:",
        "if gain != 1.0:",
    ),
    Mutant(
        "fused on any memory format",
        "sgd.py",
        "if any(_layout(other) != _layout(param) for other in others):",
        "if False:",
    ),
    Mutant(
        "fused on buffers of any shape",
        "sgd.py",
        "return tensor.shape, [stride",
        "return torch.Size(), [stride",
    ),
    Mutant("a cycled momentum passes", "sgd.py", 'if hint and "base_momentum" in group:', "if False:"),
    Mutant(
        "second moment of the task gradient alone",
        "adamw.py",
        "            total = list(torch._foreach_add(total, other))",
        "            total = list(total)",
    ),
    Mutant(
        "bias correction with the other stream's beta",
        "adamw.py",
        "beta = self.momenta(group)[name] if others else beta1",
        "beta = beta1",
    ),
    Mutant("complex moments", "adamw.py", "if t.is_complex() else t for t", "if False else t for t"),
    Mutant(
        "zero_grad marks before it zeroes",
        "base.py",
        "        super().zero_grad(set_to_none)\n        if not set_to_none:\n"
        "            self._sets.mark_zeroed(self._params())",
        "        if not set_to_none:\n            self._sets.mark_zeroed(self._params())\n"
        "        super().zero_grad(set_to_none)",
    ),
    Mutant("zero_grad keeps the kept sets", "base.py", "        self._sets.clear()\n", ""),
    Mutant(
        "step keeps the kept sets", "base.py", "            self._sets.end(params)\n", "            pass\n"
    ),
    Mutant("groups share their gradients", "base.py", "                start = end\n", ""),
    Mutant("ages are mixed", "base.py", "self._age(state)), []).append(i)", "None), []).append(i)"),
    Mutant(
        "a key that a checkpoint lacks is lost",
        "base.py",
        "for key, value in own.items() if key in self.defaults",
        "for key, value in own.items() if False",
    ),
    Mutant("loading keeps the task gradient", "base.py", "        self.zero_grad()\n", ""),
    Mutant(
        "several processes without a group",
        "base.py",
        "if self.process_group is None and _several_processes():",
        "if False:",
    ),
    Mutant(
        "a state of any shape",
        "_checks.py",
        "isinstance(value, Tensor) and value.shape != param.shape",
        "False",
    ),
    Mutant(
        "captured gradients not unscaled",
        "gradients.py",
        "            grads = unscale(grads, scaler)\n",
        "",
    ),
    Mutant(
        "an overflow of the distillation stays hidden",
        "gradients.py",
        "torch.where(self.overflow.to(param.device), torch.nan, shown)",
        "torch.where(self.overflow.to(param.device), shown, shown)",
    ),
    Mutant("marker of +0.0", "gradients.py", "torch.full_like(param, -0.0)", "torch.full_like(param, 0.0)"),
    Mutant(
        "gradients put aside are lost",
        "gradients.py",
        "            self._add(self.primary, self._take(params))\n            self.captured = frozenset()",
        "            self._take(params)\n            self.captured = frozenset()",
    ),
    Mutant(
        "a failed pass forgets the zeros",
        "gradients.py",
        "            vars(self).update(before)\n",
        '            vars(self).update({**before, "notes": {}})\n',
    ),
    Mutant(
        "edits in place are not seen",
        "gradients.py",
        "return param.grad is self.grad and self.grad._version == self.version",
        "return param.grad is self.grad",
    ),
    Mutant(
        "replaced gradients are not seen",
        "gradients.py",
        "return param.grad is self.grad and self.grad._version == self.version",
        "return param.grad is not None and param.grad._version == self.version",
    ),
    Mutant(
        "hooks stay on the parameters",
        "gradients.py",
        "            handle.remove()\n",
        "            pass\n",
    ),
    Mutant(
        "the user's backward passes are not noted",
        "gradients.py",
        "        self._hook(params)\n",
        "",
    ),
    Mutant(
        "no marker after a capture",
        "gradients.py",
        "        if not there or self.overflow is not None:",
        "        if self.overflow is not None:",
    ),
    Mutant(
        "the sets stay handed over",
        "gradients.py",
        "        self.handed_over = False\n",
        '        self.handed_over = getattr(self, "handed_over", False)\n',
    ),
    Mutant(
        "joint clipping by the first set's norm",
        "gradients.py",
        "            total = sum_of(total, grads)",
        "            total = total or grads",
    ),
    Mutant(
        "sums instead of means over processes",
        "distributed.py",
        "    flat.div_(dist.get_world_size(group))\n",
        "",
    ),
    Mutant(
        "reach of this process only",
        "distributed.py",
        "_like(param, mean) if next(counts) > 0 else None",
        "_like(param, mean) if next(counts) > 1 else None",
    ),
    Mutant(
        "sharded gradients are averaged too",
        "distributed.py",
        "for i, param in enumerate(params) if not is_sharded(param)]",
        "for i, param in enumerate(params)]",
    ),
]

# Mutants that only several processes can tell.
OF_PROCESSES = {"several processes without a group"}


def survives(mutant: Mutant, folder: Path) -> bool:
    """Run the optimizer's tests on a broken copy of the package and say whether they all pass."""
    source = folder / "src"
    shutil.copytree(ROOT / "src", source, dirs_exist_ok=True)
    path = source / "dotkd" / "optim" / mutant.file
    text = path.read_text()
    if text.count(mutant.line) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} has {text.count(mutant.line)} times: {mutant.line!r}")
    path.write_text(text.replace(mutant.line, mutant.broken))
    of_processes = mutant.file == "distributed.py" or mutant.name in OF_PROCESSES
    tests = ["tests/distributed"] if of_processes else ["tests/optim"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "-p", "no:cacheprovider", *tests]
    # PYTHONPATH comes before the installed package.
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{mutant.name}: pytest itself failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    killer = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    print(f"{'SURVIVED' if done.returncode == 0 else 'killed  '} {mutant.name:48} {killer[:110]}", flush=True)
    return done.returncode == 0


def main() -> int:
    """Try all mutants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="mutants with this word in their name")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    survivors = 0
    for mutant in chosen:
        with tempfile.TemporaryDirectory() as folder:
            survivors += survives(mutant, Path(folder))
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
