"""Scripts that no other test runs still fit the code they name."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_mutant_names_one_place_in_the_optimizer():
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "scripts" / "mutants.py")
    mutants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutants)
    counts = {
        mutant.name: (ROOT / "src" / "dotkd" / "optim" / mutant.file).read_text().count(mutant.line)
        for mutant in mutants.MUTANTS
    }
    assert counts == dict.fromkeys(counts, 1)
