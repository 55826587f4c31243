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
        "zero_grad marks before it zeroes",
        "base.py",
        "        super().zero_grad(set_to_none)\n        if not set_to_none:\n"
        "            self._sets.mark_zeroed(self._params())",
        "        if not set_to_none:\n            self._sets.mark_zeroed(self._params())\n"
        "        super().zero_grad(set_to_none)",
    ),
    Mutant(
        "zero_grad keeps the sets",
        "base.py",
        "        self._sets.clear()\n        super().zero_grad(set_to_none)",
        "        super().zero_grad(set_to_none)",
    ),
    Mutant(
        "step keeps the sets",
        "gradients.py",
        "                param.grad = None\n        self.clear()\n        used = ",
        "                param.grad = None\n        used = ",
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
        "shown = torch.where(self.overflow.to(param.device), torch.nan, shown).detach()",
        "pass",
    ),
    Mutant("marker of +0.0", "gradients.py", "torch.full_like(param, -0.0)", "torch.full_like(param, 0.0)"),
    Mutant(
        "an edited gradient is accepted",
        "gradients.py",
        "        elif any(self._is_edit(param, note) for param, note in touched) or self._has_new(params):",
        "        elif False:",
    ),
    Mutant(
        "task gradients put aside are lost",
        "gradients.py",
        "            self._add(self.primary, self._take(params))\n            self.captured",
        "            self._take(params)\n            self.captured",
    ),
    Mutant(
        "joint clipping by the first set's norm",
        "gradients.py",
        "            total = sum_of(total, grads)",
        "            total = total or grads",
    ),
    Mutant(
        "fused on any memory layout",
        "sgd.py",
        "    elif any(other.stride() != param.stride() or other.shape != param.shape for other in others):",
        "    elif False:",
    ),
    Mutant(
        "buffers only where a gradient arrived",
        "sgd.py",
        "        if new:\n",
        "        if False:\n",
    ),
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
]


def survives(mutant: Mutant, folder: Path) -> bool:
    """Run the optimizer's tests on a broken copy of the package and say whether they all pass."""
    source = folder / "src"
    shutil.copytree(ROOT / "src", source, dirs_exist_ok=True)
    path = source / "dotkd" / "optim" / mutant.file
    text = path.read_text()
    if text.count(mutant.line) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} has {text.count(mutant.line)} times: {mutant.line!r}")
    path.write_text(text.replace(mutant.line, mutant.broken))
    tests = ["tests/distributed"] if mutant.file == "distributed.py" else ["tests/optim"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", "-m", "", *tests]
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
