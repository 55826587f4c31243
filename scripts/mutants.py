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
        "dot.py",
        'return {"task": momentum - delta, "distill": momentum + delta}',
        'return {"task": momentum, "distill": momentum + delta}',
    ),
    Mutant(
        "streams swapped",
        "dot.py",
        'return {"task": momentum - delta, "distill": momentum + delta}',
        'return {"task": momentum + delta, "distill": momentum - delta}',
    ),
    Mutant(
        "one-loss parameters with the shifted momentum",
        "momentum.py",
        "momentum = momenta[name] if shared else plain",
        "momentum = momenta[name]",
    ),
    Mutant(
        "gains on one-loss parameters",
        "momentum.py",
        "gain = self._gain(group, name) if shared else 1.0",
        "gain = self._gain(group, name)",
    ),
    Mutant(
        "no decay for distillation-only parameters",
        "momentum.py",
        'weight_decay=group["weight_decay"] if name == first else 0.0,',
        'weight_decay=group["weight_decay"] if name == self.streams[0] else 0.0,',
    ),
    Mutant(
        "decay in both streams",
        "momentum.py",
        'weight_decay=group["weight_decay"] if name == first else 0.0,',
        'weight_decay=group["weight_decay"],',
    ),
    Mutant(
        "decay without the gain",
        "momentum.py",
        "weight_decay=gain * weight_decay,",
        "weight_decay=weight_decay,",
    ),
    Mutant(
        "normalize upside down",
        "momentum.py",
        "gain *= (1 - momentum) / (1 - plain)",
        "gain *= (1 - plain) / (1 - momentum)",
    ),
    Mutant(
        "the first group's delta for all",
        "dot.py",
        'momentum, delta = group["momentum"], group["delta"]',
        'momentum, delta = group["momentum"], self.param_groups[0]["delta"]',
    ),
    Mutant(
        "zero_grad marks before it zeroes",
        "streams.py",
        "        super().zero_grad(set_to_none)\n        if not set_to_none:\n"
        "            self._intake.mark_zeroed(self._params())",
        "        if not set_to_none:\n            self._intake.mark_zeroed(self._params())\n"
        "        super().zero_grad(set_to_none)",
    ),
    Mutant("zero_grad keeps the kept sets", "streams.py", "        self._intake.drop()\n", ""),
    Mutant("step keeps the kept sets", "streams.py", "        self._intake.end(sets[primary], params)\n", ""),
    Mutant(
        "captured gradients not unscaled",
        "intake.py",
        "            grads = unscale(grads, scaler)\n",
        "",
    ),
    Mutant(
        "an overflow of the distillation stays hidden",
        "intake.py",
        "self.signal(params, self._bad)",
        "self.signal(params, torch.zeros_like(self._bad))",
    ),
    Mutant("signal of +0.0", "gradients.py", "torch.full_like(param, -0.0)", "torch.full_like(param, 0.0)"),
    Mutant(
        "parked gradients are lost",
        "intake.py",
        "        self.add(self.primary, self.take(params))\n        self.consents",
        "        self.take(params)\n        self.consents",
    ),
    Mutant(
        "joint clipping by the first set's norm",
        "clipping.py",
        "            total = sum_of(total, grads)",
        "            total = total or grads",
    ),
    Mutant(
        "fused on any memory layout",
        "kernels.py",
        "    if any(other.stride() != param.stride() for other in others):",
        "    if False:",
    ),
    Mutant(
        "buffers only where a gradient arrived",
        "momentum.py",
        "if len(states[0]) < len(self.streams):",
        "if False:",
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
        "beta = first_betas[name] if others else beta1",
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
        "_like(param, mean) if count > 0 else None",
        "_like(param, mean) if count > 1 else None",
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
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
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
