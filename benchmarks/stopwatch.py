"""Time spent in the parts of a step, measured from outside: functions are wrapped, no code is repeated."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopwatch:
    """Adds up seconds by phase; where one phase runs inside another, only the inner one's clock runs.

    Args:
        clock: Where the seconds come from.

    Attributes:
        seconds: Of each phase since the last :meth:`reset`.

    Example:
        >>> watch = Stopwatch()
        >>> double = watch.timed("twice", lambda x: 2 * x)
        >>> double(4), list(watch.seconds)
        (8, ['twice'])
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def reset(self) -> None:
        """Forget what was added up."""
        self.seconds.clear()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Let the clock of a phase run."""
        self._turn()
        self._running.append(name)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same in a phase."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return run

    def each(self, name: str, items: Iterable[Any]) -> Iterator[Any]:
        """Go through something; what it takes to get the next item is a phase."""
        iterator = iter(items)
        while True:
            try:
                with self.phase(name):
                    item = next(iterator)
            except StopIteration:
                return
            yield item

    def _turn(self) -> None:
        """Enter the time since the last turn for the phase that was running."""
        now = self.clock()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
