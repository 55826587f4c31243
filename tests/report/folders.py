"""Run folders as training leaves them, with curves made up to look like it."""

import json
import math
import random
from pathlib import Path

from dotkd.runs import ENVIRONMENT, GRADIENTS, METRICS, RECIPE, RESULTS, STUDENT

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
