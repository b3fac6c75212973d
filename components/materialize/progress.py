"""A bar for what takes long, on a terminal; nothing in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_LONG = 3.0  # seconds


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with how many have been done since it was last called."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    started, done = time.monotonic(), 0
    shown: list[Progress] = []

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if not shown and done < total and time.monotonic() - started > _LONG:
            shown.append(_bar(title, total))
        for bar in shown:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        for bar in shown:
            bar.stop()


def _bar(title: str, total: int) -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(file=sys.stderr), transient=True)
    bar.add_task(title, total=total)
    bar.start()
    return bar
