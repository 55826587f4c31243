"""Worlds of processes that run the checks registered for their size and write down how each ended.

``python -m distributed.worker FOLDER WORLD ...``, in ``tests/``. A file ``CHECK-WORLD-RANK`` appears in
FOLDER for each check and process: empty where it passed, otherwise the traceback.

What costs is to import torch, and more again with the first optimizer. So one process does that, and forks.
"""

import importlib
import multiprocessing
import sys
import time
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from . import agreement, replicas, scaling, sharded  # noqa: F401 (they register their checks)
from .common import CHECKS

WORLDS = (2, 4)
# The first optimizer of a process imports torch._dynamo; sharded.py needs the others.
PRELOADED = ("torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp")
# All checks of a world; what has not ended then is killed.
SECONDS = 100
# A collective that somebody does not join fails after this time; the next check gets a new group.
COLLECTIVE = timedelta(seconds=15)
# Others may be this late for the next check: they may wait in a collective.
MEETING = timedelta(seconds=40)


def checks_for(world):
    return [name for name, (_, worlds) in CHECKS.items() if world in worlds]


def run_checks(rank, world, folder):
    """Be one process of a world."""
    store = dist.FileStore(str(folder / f"store-{world}"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=COLLECTIVE)
    for name in checks_for(world):
        store.set(f"{name}-{rank}", "here")
        store.wait([f"{name}-{other}" for other in range(world)], MEETING)
        group = dist.new_group(timeout=COLLECTIVE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                CHECKS[name][0](group)
            text = ""
        except Exception:
            text = traceback.format_exc()
        (folder / f"{name}-{world}-{rank}").write_text(text)
    dist.destroy_process_group()


def run_world(world, folder):
    """Start the processes of a world and wait for them, within limits."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run_checks, args=(rank, world, folder)) for rank in range(world)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()


def main(folder, worlds):
    torch.set_num_threads(1)
    for module in PRELOADED:
        importlib.import_module(module)
    # Python 3.12 and later warn of any other thread; the one here belongs to a library that minds forks.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    for world in worlds:
        run_world(world, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(world) for world in sys.argv[2:]])
