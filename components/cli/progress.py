"""Progress of a local run: a live display in a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fti.local_run import StepEvent


@contextmanager
def step_progress(title: str) -> Iterator[Callable[[StepEvent], None]]:
    """Yields a function to call as steps start and end."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)  # the run takes stdout over
    running: list[str] = []

    def ended(event: StepEvent) -> None:
        if event.task in running:
            running.remove(event.task)
        mark = "[green]✓[/]" if event.status == "SUCCESS" else "[red]✗[/]"
        console.print(f"{mark} {event.task:<22} {event.seconds or 0:6.1f} s")

    if not console.is_terminal:
        yield lambda event: ended(event) if event.seconds is not None else None
        return

    with console.status(title) as status:

        def follow(event: StepEvent) -> None:
            if event.seconds is None:
                running.append(event.task)
            else:
                ended(event)
            status.update(f"{title}: {', '.join(running)}" if running else title)

        yield follow
