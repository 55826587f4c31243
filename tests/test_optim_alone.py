"""``dotkd.optim`` needs torch and nothing else, and its folder can be copied out of the package.

Each test starts a fresh interpreter in which nothing can be found but the standard library, torch and what
torch itself cannot be imported without: no numpy, and none of our own dependencies.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dotkd

# Found by taking one name after the other away (torch 2.13). The first two come in torch's own wheel.
TORCH_NEEDS = ["torch", "torchgen", "typing_extensions", "sympy", "mpmath"]

ONLY = f"""
import sys

class Only:
    "A finder that finds nothing but what is allowed; nothing to find is what a missing package looks like."

    def __init__(self, finder, names):
        self.finder, self.names = finder, names

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        # The standard library's record of how Python was built has a name for each platform.
        if top not in self.names and not top.startswith("_sysconfigdata"):
            return None
        return self.finder.find_spec(name, path, target)

def allow_only(*names):
    allowed = {{*sys.stdlib_module_names, *{TORCH_NEEDS}, *names}}
    sys.meta_path[:] = [Only(finder, allowed) for finder in sys.meta_path]

def missing(name):
    try:
        __import__(name)
    except ModuleNotFoundError:
        return True
    return False
"""

STEPS = """
import torch

weight = torch.nn.Parameter(torch.tensor(1.0))
opt = DOT([weight], lr=0.1, momentum=0.5, delta=0.25, weight_decay=0.5)
for _ in range(2):
    opt.backward(task=weight.sum(), distill=(2 * weight).sum())
    opt.clip_grad_norm_(100.0)
    opt.step()
    opt.zero_grad()
# By hand: task buffer 1 + .5, distillation buffer 2, weight 1 - .35; then .375 + 1.325 and 1.5 + 2.
torch.testing.assert_close(weight.detach(), torch.tensor(0.65 - 0.1 * (1.7 + 3.5)))
assert "numpy" not in sys.modules
"""


def run_alone(code: str, cwd: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # torch says once that it found no numpy; every other warning is an error.
    quiet = ["-W", "error", "-W", "ignore:Failed to initialize NumPy:UserWarning"]
    result = subprocess.run(
        [sys.executable, *quiet, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_imports_and_steps_with_torch_alone(tmp_path: Path) -> None:
    before = """
allow_only("dotkd")
assert missing("numpy")
from dotkd.optim import DOT
"""
    after = """
ours = {name for name in sys.modules if name.partition(".")[0] == "dotkd"}
others = {name for name in ours if name != "dotkd" and not f"{name}.".startswith("dotkd.optim.")}
assert not others, others
"""
    run_alone(ONLY + before + STEPS + after, cwd=tmp_path)


@pytest.mark.slow
def test_folder_works_alone_under_another_name(tmp_path: Path) -> None:
    source = Path(next(iter(dotkd.__path__))) / "optim"
    shutil.copytree(source, tmp_path / "my_optim", ignore=shutil.ignore_patterns("__pycache__"))
    before = """
allow_only("my_optim")
assert missing("numpy")
assert missing("dotkd")
from my_optim import DOT
"""
    run_alone(ONLY + before + STEPS, cwd=tmp_path)  # python -c looks for modules in the folder it runs in
