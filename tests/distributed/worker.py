"""One process of a world: runs the checks registered for its size and writes down how each ended.

``python -m distributed.worker RANK WORLD FOLDER``, in ``tests/``. A file ``CHECK-RANK`` appears in FOLDER for
each check: empty where it passed, otherwise the traceback.
"""

import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from . import agreement, replicas, scaling, sharded  # noqa: F401 (they register their checks)
from .common import CHECKS

# A collective that somebody does not join fails after this time; the next check gets a new group.
COLLECTIVE = timedelta(seconds=15)
# Others may be this late for the next check: they may wait in a collective.
MEETING = timedelta(seconds=60)


def checks_for(world):
    return {name: function for name, (function, worlds) in CHECKS.items() if world in worlds}


def main(rank, world, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=COLLECTIVE)
    for name, function in checks_for(world).items():
        store.set(f"{name}-{rank}", "here")
        store.wait([f"{name}-{other}" for other in range(world)], MEETING)
        group = dist.new_group(timeout=COLLECTIVE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                function(group)
            text = ""
        except Exception:
            text = traceback.format_exc()
        (folder / f"{name}-{rank}").write_text(text)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
