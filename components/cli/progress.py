"""Progress of a local run: a live display in a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fti.local_step import OnStep, Step


@contextmanager
def step_progress(title: str) -> Iterator[OnStep]:
    """Yields a function to call as steps start and end."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)  # the run takes stdout over
    running: list[str] = []

    def ended(step: Step) -> None:
        mark = "[red]✗[/]" if step.failed else "[green]✓[/]"
        console.print(f"  {mark} {step.name:<32} {step.seconds or 0:6.1f} s")

    if not console.is_terminal:
        yield lambda step: ended(step) if step.seconds is not None else None
        return

    with console.status(title) as status:

        def follow(step: Step) -> None:
            if step.seconds is None:
                running.append(step.name)
            else:
                running.remove(step.name)
                ended(step)
            status.update(f"{title}: {', '.join(running)}" if running else title)

        yield follow
