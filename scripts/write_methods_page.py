"""Write the table of docs/methods.md; ``python scripts/write_methods_page.py``.

What a method reads and learns comes from its class, its cost from benchmarks/results/methods.json; papers
and published numbers are below.
"""

import json
from pathlib import Path

from dotkd.methods import create_method, has_teacher, method_names
from dotkd.methods.base import NO_FEATURES, Method

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
COSTS = ROOT / "benchmarks" / "results" / "methods.json"
BEGIN, END = "<!-- from the methods -->", "<!-- end -->"

# Name -> paper, arXiv number ("" for none), top-1 of resnet32x4 -> resnet8x4 on CIFAR-100, its source.
REP, MD, LS = "RepDistiller", "mdistiller", "logit-standardization-KD"
PAPERS = {
    "at": ("Attention transfer, ICLR 2017", "1612.03928", 73.44, REP),
    "crd": ("Contrastive representation distillation, ICLR 2020", "1910.10699", 75.51, REP),
    "deepkd": ("DeepKD, NeurIPS 2025", "2505.15133", None, ""),
    "dist": ("DIST, NeurIPS 2022", "2205.10536", None, ""),
    "dkd": ("Decoupled knowledge distillation, CVPR 2022", "2203.08679", 76.32, MD),
    "fitnet": ("FitNets, ICLR 2015", "1412.6550", 73.50, REP),
    "kd": ("Knowledge distillation, 2015", "1503.02531", 73.33, REP),
    "kdsvd": ("Singular value decomposition, ECCV 2018", "1807.06819", None, ""),
    "label_smoothing": ("Inception v3, CVPR 2016", "1512.00567", None, ""),
    "mlkd": ("Multi-level logit distillation, CVPR 2023", "", 77.08, f"{LS}; 480 epochs, two views"),
    "nkd": ("Normalized knowledge distillation, ICCV 2023", "2303.13005", None, ""),
    "nst": ("Neuron selectivity transfer, 2017", "1707.01219", 73.30, REP),
    "ofd": ("Overhaul of feature distillation, ICCV 2019", "1904.01866", None, ""),
    "pkt": ("Probabilistic knowledge transfer, ECCV 2018", "1803.10837", 73.64, REP),
    "reviewkd": ("Knowledge review, CVPR 2021", "2104.09044", None, ""),
    "rkd": ("Relational knowledge distillation, CVPR 2019", "1904.05068", 71.90, REP),
    "simkd": ("Reused teacher classifier, CVPR 2022", "2203.14001", None, ""),
    "sp": ("Similarity-preserving distillation, ICCV 2019", "1907.09682", 72.94, REP),
    "tf_kd": ("Teacher-free distillation, CVPR 2020", "1909.11723", None, ""),
    "vid": ("Variational information distillation, CVPR 2019", "1904.05835", 73.09, REP),
}


def page() -> str:
    """Return the text of the page, its table made anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return "\n".join([before + BEGIN, "", *map(_row, ["", *method_names()]), "", END + after])


def _row(name: str) -> str:
    if not name:
        return "| name | reads | learns | step, to KD | paper | published |\n|---|---|---|---|---|---|"
    paper, arxiv, accuracy, source = PAPERS[name]
    link = f"{paper}, [{arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else paper
    method = create_method(name)
    reads = ", ".join(f"`{kind}`" for kind in method.needs) if isinstance(method, Method) else "`target`"
    features = isinstance(method, Method) and not NO_FEATURES.issuperset(method.needs)
    costs = json.loads(COSTS.read_text(encoding="utf-8"))["results"].get(name)
    learns = f"{costs['learned_parameters'] / 1e6:.2f} M" if costs and costs["learned_parameters"] else "-"
    cost = f"{costs['ratio']:.2f}" if costs else "no teacher"
    assert features or learns == "-" or not has_teacher(name)
    published = f"{accuracy:.2f} ({source})" if accuracy else "-"
    return f"| `{name}` | {reads} | {learns} | {cost} | {link} | {published} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
