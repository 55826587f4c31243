"""Starts worker processes without forking this one, and ends them with their parent."""

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
