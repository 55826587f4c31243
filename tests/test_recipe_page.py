"""The pages made by scripts say what they are made of: types, methods, and the runs of the studies."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from dotkd.recipe.tables import tables
from dotkd.report import read_comparison, summarize

SCRIPTS = Path(__file__).parents[1] / "scripts"
STUDIES = SCRIPTS.parent / "studies" / "results"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["write_recipe_page", "write_methods_page"])
def test_the_page_is_what_the_script_writes(name):
    writer = script(name)
    assert writer.page() == writer.PAGE.read_text(encoding="utf-8"), f"run python scripts/{name}.py"


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "docs/which-optimizer.md"])
def test_tables_of_the_real_size_results_are_those_of_their_files(name):
    writer = script("write_results_page")
    text = (writer.ROOT / name).read_text(encoding="utf-8")
    assert writer.page(writer.ROOT / name) == text, "run python scripts/write_results_page.py"
    assert "<!-- from " in text


def test_two_seeds_are_called_a_first_measurement():
    writer = script("write_results_page")
    assert "First measurement, 2 seeds" in writer.headline()
    # A t interval of two values is 12.706 times their half distance.
    text = writer.interval("dot", "kd").replace("\N{MINUS SIGN}", "-")
    found = [float(value) for value in re.findall(r"[+-]\d[\d.]*", text)]
    assert found == pytest.approx([1.68, 1.68 - 12.706 * 0.16, 1.68 + 12.706 * 0.16], abs=0.006)
    writer.RUN["seeds"] = [0, 1, 2, 3]
    for arm in writer.RUN["arms"].values():
        arm |= {name: 2 * values for name, values in arm.items()}
    assert "First measurement" not in writer.headline()
    assert "74.92 (0.13)" in writer.headline()


def test_every_key_is_described():
    found = tables()
    for place, table in found.items():
        for key, field in table.model_fields.items():
            inner = not place and (key == "method" or any(key == other[0] for other in found if other))
            assert inner or key == "name" or field.description, (place, key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evidence.md", "delta.md"])
def test_tables_and_figures_of_the_studies_are_those_of_their_runs(name):
    writer = script("write_evidence_pages")
    assert writer.page(name) == (writer.DOCS / name).read_text(encoding="utf-8"), (
        "run python scripts/write_evidence_pages.py"
    )
    shown = dict(writer.figures(name))
    assert shown
    for path, text in shown.items():
        # The last digits of the drawing depend on matplotlib's version, the description does not.
        description = re.compile(r'aria-label="[^"]+"')
        assert description.search(path.read_text(encoding="utf-8"))[0] == description.search(text)[0], (
            path.name
        )


@pytest.mark.parametrize("study", [path.parent.name for path in STUDIES.glob("*/results.json")])
def test_the_numbers_of_a_study_are_those_of_its_runs(study):
    found = json.dumps(summarize(read_comparison(STUDIES / study)).to_json())
    right = json.loads(found, parse_float=lambda text: pytest.approx(float(text), rel=1e-4, abs=1e-9))
    assert json.loads((STUDIES / study / "results.json").read_text(encoding="utf-8")) == right
