"""How processes of our own start and end; what they do belongs to those who start them."""

import multiprocessing
import os
import threading
from multiprocessing.context import BaseContext


def new_context(*preload: str) -> BaseContext:
    """Choose how processes start: never forked from this one, whose threads could hold a lock for ever.

    Args:
        *preload: Modules that all of them need; loaded once where the system can share them.

    Returns:
        What pools and loaders take as their context.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def end_with_parent() -> None:
    """Have this process end when the one that asked for it does, even by a kill.

    What pools and loaders watch is the process that forked theirs, here a server, which in turn lives for as
    long as they do.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
