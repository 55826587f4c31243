"""Starts worker processes without forking this one, ends them with their parent, counts CPUs for them."""

import multiprocessing
import os
import threading
from multiprocessing.context import BaseContext


def new_context(*preload: str) -> BaseContext:
    """Return a multiprocessing context that never forks this process.

    A fork of a process with threads may inherit a lock that nobody releases.

    Args:
        *preload: modules that all workers need; loaded once where the system can share them.

    Returns:
        The context for pools and data loaders.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def available_cpus() -> int:
    """Return the number of CPUs that this process may use; all of them where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Exit this worker when the process that started it ends, even by SIGKILL.

    Pools and data loaders watch the process that forked them, which under forkserver is the server.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
