"""Run folders as training, tuning and analysis leave them, with made-up numbers."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

from dotkd.report import read_comparison
from dotkd.report.evidence import Evidence
from dotkd.report.read import compared
from dotkd.runs import (
    ANALYSIS,
    ENVIRONMENT,
    GRADIENTS,
    METRICS,
    RECIPE,
    RESULTS,
    STUDENT,
    SWEEP,
    TUNING,
    find_runs,
)

OPTIMIZERS = {"plain": "sgd", "KD": "sgd", "KD + DOT": "dot", "KD, control": "control"}
GAIN = {"plain": 0.0, "KD": 0.011, "KD + DOT": 0.0155, "KD, control": 0.0115}


def recipe(name, seed, *, optimizer="sgd", method="kd", epochs=40, more="", delta=0.075, weights=(0.1, 0.9)):
    delta = "" if optimizer == "sgd" else f"delta = {delta}\n"
    task, distill = weights
    distil = (
        f'[teacher]\nmodel = "cnn-large"\n\n[method]\nname = "{method}"\n'
        f"task_weight = {task}\ndistill_weight = {distill}\n\n"
        if method
        else ""
    )
    return (
        f"name = {json.dumps(name)}\n\n"
        f'[data]\nname = "digits"\nvalidation = 200\nbatch_size = 64\nseed = 0\n{more}\n'
        f'[student]\nmodel = "cnn-small"\n\n{distil}'
        f'[optimizer]\nname = "{optimizer}"\nlr = 0.05\nmomentum = 0.9\n{delta}\n'
        f'[schedule]\nname = "cosine"\nepochs = {epochs}\n\n[run]\nseed = {seed}\ndevice = "cpu"\n'
    )


def metrics(epochs, rng, *, distilled, dot):
    for epoch in range(1, epochs + 1):
        part = epoch / max(epochs, 2)
        noise = 1 + 0.04 * rng.random()
        task = (0.12 + 1.9 * math.exp(-5 * part)) * noise * (1.05 if dot else 1)
        distill = (0.30 + 2.2 * math.exp(-4 * part)) * noise * (0.85 if dot else 1) if distilled else None
        yield {
            "epoch": epoch,
            "lr": 0.05,
            "train_task_loss": task,
            "train_distill_loss": distill,
            "gradient_cosine": 0.8 * math.exp(-2 * part) - 0.1 + 0.1 * rng.random() if distilled else None,
            "gradient_norm_ratio": 0.4 + 1.2 * part * noise if distilled else None,
            **directions(part, dot=dot, distilled=distilled),
            "train_accuracy": 0.9,
            "validation_accuracy": 0.9,
            "validation_loss": 0.3,
            "seconds": 1.0,
        }


def directions(part, *, dot, distilled):
    """The columns that older runs lack."""
    found = {
        "gradient_sign_disagreement": 0.3 + 0.2 * part,
        "task_total_cosine": 0.9 - 0.5 * part,
        "distill_total_cosine": 0.7 + 0.2 * part,
        "task_update_cosine": 0.5 - (0.6 if dot else 0.4) * part,
        "distill_update_cosine": 0.4 - 0.1 * part,
    }
    return found if distilled else dict.fromkeys(found)


def write_gradients(folder, epochs, layers=6):
    """The gradients of each layer; deeper ones agree more, and one of them has no cosine."""
    lines = []
    for epoch in range(1, epochs + 1):
        found = {
            f"blocks.{place}.weight": {
                "cosine": None
                if (place, epoch) == (0, 1)
                else 0.8 - 1.2 * epoch / epochs + 0.2 * place / layers,
                "norm_ratio": 0.5 + 0.1 * place,
                "sign_disagreement": 0.4,
            }
            for place in range(layers)
        }
        lines.append(json.dumps({"epoch": epoch, "layers": found}))
    (folder / GRADIENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_run(folder, text, rows, accuracy, *, name="x", seed=0, best=None, seconds=52.5, parameters=12345):
    """A finished run folder; what the student weighs is of no interest here."""
    folder.mkdir(parents=True)
    judged = {"epoch": len(rows), "test_accuracy": accuracy, "test_loss": 0.3}
    results = {"name": name, "seed": seed, "parameters": parameters, "seconds": seconds, "last": judged}
    results["best"] = None if best is None else {**judged, "test_accuracy": best}
    (folder / RECIPE).write_text(text, encoding="utf-8")
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / RESULTS).write_text(json.dumps(results), encoding="utf-8")
    machine = {"python": "3.12.1", "torch": "2.6.0", "dotkd": "0.1.0", "device": "cpu", "threads": 8}
    (folder / ENVIRONMENT).write_text(json.dumps(machine), encoding="utf-8")
    (folder / STUDENT).write_bytes(b"")


def write_example(root: Path, *, arms=tuple(OPTIMIZERS), seeds=5, epochs=40, teacher=True):
    """A comparison of some arms, with plausible numbers."""
    for arm in arms:
        optimizer, distilled = OPTIMIZERS[arm], arm != "plain"
        for seed in range(seeds):
            rng = random.Random(f"{arm} {seed}")
            easy = random.Random(seed).gauss(0, 0.002)
            accuracy = round((0.945 + GAIN[arm] + easy + rng.gauss(0, 0.0012)) * 1000) / 1000
            text = recipe(arm, seed, optimizer=optimizer, method="kd" if distilled else "", epochs=epochs)
            rows = list(metrics(epochs, rng, distilled=distilled, dot=optimizer == "dot"))
            where = root / "runs" / f"{arm.replace(' ', '')}-{seed}"
            write_run(where, text, rows, accuracy, name=arm, seed=seed, best=accuracy + 0.001)
    if teacher:
        rows = list(metrics(epochs, random.Random(0), distilled=False, dot=False))
        write_run(
            root / "teacher", recipe("cnn-large", 0, method="", epochs=epochs), rows, 0.9713, name="cnn-large"
        )
    return root


# ---------------------------------------------------------------- beside the runs

BASES = {"KD": "sgd", "KD + DOT": "dot", "KD, control": "control"}
WEIGHTS = ((0.9, 0.1), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.1, 0.9))
DELTAS = (0.025, 0.05, 0.075, 0.09)


def ends(task_share, rng, *, dot):
    """Where a run ends: more weight on a loss makes it lower; DOT is a little below the others."""
    gain = 0.93 if dot else 1.0
    task = gain * (0.22 + 0.25 * (1 - task_share) ** 2) * (1 + 0.01 * rng.gauss(0, 1))
    distill = gain * (0.30 + 0.50 * task_share**2) * (1 + 0.01 * rng.gauss(0, 1))
    return task, distill


def swept_rows(epochs, rng, task_share, *, dot, accuracy):
    rows = list(metrics(epochs, rng, distilled=True, dot=dot))
    task, distill = ends(task_share, rng, dot=dot)
    for row in rows:
        left = math.exp(-5 * row["epoch"] / max(epochs, 2))
        row["train_task_loss"], row["train_distill_loss"] = 0.9 * task + 2 * left, 0.9 * distill + 3 * left
        row["validation_loss"], row["validation_distill_loss"] = task + 2 * left, distill + 3 * left
        row["validation_accuracy"] = accuracy - 0.4 * left
    return rows


def write_sweep(root, keys, points, *, bases=tuple(BASES), seeds=3, epochs=12):
    """Arms of each base at each point, and ``sweep.json``; (task, distill) weights or a delta are swept."""
    arms = []
    for base in bases:
        for values in points:
            said = ", ".join(f"{key.split('.')[1]} {value}" for key, value in zip(keys, values, strict=True))
            name = f"{base}, {said}"
            arms.append({"name": name, "base": base, "values": list(values)})
            for seed in range(seeds):
                rng = random.Random(f"{name} {seed}")
                optimizer = BASES[base]
                share = values[0] if len(keys) == 2 else 0.1 + 2 * values[0]
                accuracy = 0.9 + 0.03 * (1 - 3 * (share - 0.25) ** 2) + 0.002 * rng.gauss(0, 1)
                options = {"weights": values} if len(keys) == 2 else {"delta": values[0]}
                text = recipe(name, seed, optimizer=optimizer, epochs=epochs, **options)
                rows = swept_rows(epochs, rng, share, dot=optimizer == "dot", accuracy=accuracy)
                where = root / "runs" / f"{base.replace(' ', '')}-{'-'.join(map(str, values))}-{seed}"
                write_run(where, text, rows, round(accuracy, 3), name=name, seed=seed, best=accuracy + 0.001)
    (root / SWEEP).write_text(json.dumps({"keys": keys, "arms": arms}), encoding="utf-8")


def end_run(root, name, seed, end, *, split="validation", optimizer="sgd", accuracy=0.9, change=("", "")):
    """A run of one epoch that ends at (distillation loss, task loss); the other split has no such losses."""
    distill, task = end
    losses = {
        "validation": {"validation_loss": task, "validation_distill_loss": distill},
        "train": {"train_task_loss": task, "train_distill_loss": distill},
    }
    row = {"epoch": 1, "lr": 0.1, "validation_accuracy": accuracy, **losses[split]}
    text = recipe(name, seed, optimizer=optimizer, epochs=1).replace(*change)
    where = root / f"{name}-{seed}".replace("/", "-")
    write_run(
        where, text, [{"train_task_loss": 1.0, "train_distill_loss": 1.0, **row}], 0.9, name=name, seed=seed
    )


def write_tuning(root, arms=("KD", "KD + DOT"), rates=(0.01, 0.02, 0.05)):
    def numbers(arm, rate):
        return [round(0.9 - (rate - 0.02) ** 2 * 20 + 0.001 * len(arm) + 0.001 * k, 4) for k in range(3)]

    table = {
        arm: {"chosen": 0.02, "validation_accuracy": {f"{rate:g}": numbers(arm, rate) for rate in rates}}
        for arm in arms
    }
    content = {"rates": list(rates), "seeds": [100, 101, 102], "arms": table}
    (root / TUNING).write_text(json.dumps(content), encoding="utf-8")


def analysis(rng, *, distilled=True, sharp=1.0, grid=15):
    """All that an analysis may hold."""
    steps = [2 * place / (grid - 1) - 1 for place in range(grid)]

    def surface(low, curve):
        return [[low + curve * sharp * (x * x + 0.6 * y * y + 0.5 * x * y) for y in steps] for x in steps]

    spectrum = {"nodes": [-sharp, 0.0, 5 * sharp, 40 * sharp], "weights": [0.05, 0.9, 0.04, 0.01]}

    def shape(low):
        return {"eigenvalues": [40 * sharp, 22 * sharp], "trace": 310 * sharp * low, "trace_error": 4.2,
                "epsilon_sharpness": 0.02 * sharp, "spectrum": spectrum}  # fmt: skip

    bins = [(place + 0.5) / 15 for place in range(15)]
    found = {
        "epoch": 40,
        "split": "validation",
        "images": 1000,
        "landscape": {"steps": steps, "task": surface(0.3, 9), "total": surface(0.5, 12)},
        "sharpness": {"task": shape(1.0 + 0.1 * rng.random())},
        "quality": {
            "ece": 0.03 + 0.01 * rng.random(),
            "nll": 0.31,
            "brier": 0.12,
            "reliability": {
                "confidence": [None if place < 2 else value for place, value in enumerate(bins)],
                "accuracy": [
                    None if place < 2 else max(0, value - 0.08 * sharp * rng.random())
                    for place, value in enumerate(bins)
                ],
                "count": [0 if place < 2 else 10 * place for place in range(15)],
            },
            "worst_classes": [
                {"class": f"class {rng.randrange(4)}", "accuracy": 0.7 + 0.1 * rng.random(), "count": 50}
            ],
            "robustness": {
                **{
                    kind: [0.9 - fall * 0.1 * step * (1 + 0.1 * rng.random()) for step in range(1, 6)]
                    for kind, fall in (("noise", 1.2), ("blur", 0.8), ("contrast", 0.6), ("brightness", 0.3))
                },
                "fgsm": {"epsilon": 2 / 255, "accuracy": 0.4 + 0.05 * rng.random()},
            },
        },
        "cost": {"parameters": 12345, "flops": 2_400_000, "latency_seconds": 0.0021},
    }
    if distilled:
        found["landscape"]["distill"] = surface(0.02, 14)
        found["sharpness"]["distill"] = shape(0.4)
        found["quality"]["agreement"] = {
            "top1": 0.93,
            "kl": 0.21,
            "student_right": 0.35,
            "teacher_right": 0.5,
            "neither": 0.15,
        }
    return found


def line(arm, seed, *, high=0.5, distilled=True):
    """What lies between two students: a hill."""
    steps = [place / 16 for place in range(17)]
    hill = [high * 4 * step * (1 - step) for step in steps]
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "task": [0.3 + rise for rise in hill],
        "distill": [0.1 + 2 * rise for rise in hill] if distilled else None,
        "accuracy": [0.95 - rise / 2 for rise in hill],
    }


def write_analyses(root, start="plain"):
    """An analysis beside every student's run, with lines from seed 0 of an arm, and its gradients."""
    for results in sorted((root / "runs").glob("*/results.json")):
        rng = random.Random(results.parent.name)
        name = json.loads(results.read_text(encoding="utf-8"))["name"]
        sharp = 0.6 if "DOT" in name else 1.6 if name == "plain" else 1.0
        content = analysis(rng, distilled=name != "plain", sharp=sharp)
        seed = json.loads(results.read_text(encoding="utf-8"))["seed"]
        if (name, seed) != (start, 0):
            content["interpolation"] = line(start, 0, high=sharp, distilled=name != "plain")
        if name != "plain":
            epochs = (results.parent / METRICS).read_text(encoding="utf-8").count("\n")
            write_gradients(results.parent, epochs)
        (results.parent / ANALYSIS).write_text(json.dumps(content), encoding="utf-8")


# ---------------------------------------------------------------- arms of one measure


def arm(root, name, accuracies, *, optimizer="sgd", method="kd", more="", change=("", "")):
    """Runs of one arm; ``accuracies`` maps a seed to a test accuracy."""
    for seed, accuracy in accuracies.items():
        text = recipe(name, seed, optimizer=optimizer, method=method, epochs=2, more=more).replace(*change)
        rows = [
            {
                "epoch": epoch,
                "lr": 0.1,
                "train_task_loss": epoch + (accuracy or 0.0),
                "train_distill_loss": 2.0 if method else None,
            }
            for epoch in (1, 2)
        ]
        write_run(root / f"{name}-{seed}", text, rows, accuracy, name=name, seed=seed)


# ---------------------------------------------------------------- reading and changing


def evidence(root):
    return Evidence(read_comparison(root))


def changed(runs, change, sweep=None, tuning=None):
    """The evidence of runs, each changed by a function of the run."""
    return Evidence(compared([change(run) for run in runs], sweep, tuning))


def at_end(run, **values):
    """A run with other metrics in its last epoch."""
    return replace(run, metrics=(*run.metrics[:-1], run.metrics[-1].model_copy(update=values)))


def with_best(run, epoch, accuracy):
    """A run with another best epoch."""
    best = (
        None
        if epoch is None
        else run.results.last.model_copy(update={"epoch": epoch, "test_accuracy": accuracy})
    )
    return replace(run, results=run.results.model_copy(update={"best": best}))


def analysed(root, change):
    """Write an analysis beside every run below a folder, changed by a function of it and of the run."""
    for run in find_runs(root):
        content = analysis(random.Random(run.seed), distilled=run.name != "plain", grid=3)
        (run.path / ANALYSIS).write_text(json.dumps(change(content, run)), encoding="utf-8")
    return evidence(root)
