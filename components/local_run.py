"""Runs a pipeline in KFP's own local runner, each step a process of this Python, all state under `.fti/runs/`."""

import contextlib
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from fti.common.errors import BusyError, FtiError
from fti.common.files import atomic_file
from fti.common.settings import Settings

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"INFO - Executing task '(?P<task>[^']+)'")
_ENDED = re.compile(r"(?:INFO|ERROR) - Task '(?P<task>[^']+)' finished with status (?P<status>\w+)")
_OUR_ERROR = re.compile(r"^\s*fti\.common\.errors\.(?P<kind>\w+): (?P<text>.*)$")


class StepFailedError(FtiError):
    """A step of a local run failed; its own words are in the message."""


@dataclass(frozen=True)
class StepEvent:
    """A step started (`seconds` is None) or ended."""

    task: str
    status: str
    seconds: float | None = None


@dataclass
class Run:
    """One run of a pipeline on this machine.

    Attributes:
        id: The name of its folder under `<home>/runs`.
        folder: Where its log, artifacts and reports lie.
        seconds: Wall time.
        steps: Wall seconds of each finished task, in order of their end.
        outputs: The pipeline's own outputs; an artifact is given by its path.
        reports: The HTML reports that its steps wrote.
    """

    id: str
    folder: Path
    seconds: float = 0.0
    steps: list[tuple[str, float]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    reports: list[Path] = field(default_factory=list)

    def artifacts(self, task: str, output: str) -> list[dict[str, Any]]:
        """The artifacts that a task gave under one output name: `uri` and `metadata` of each, one per iteration."""
        found = []
        for file in sorted(self.folder.glob(f"steps/**/{task}/executor_output.json")):
            found += json.loads(file.read_text()).get("artifacts", {}).get(output, {}).get("artifacts", [])
        return found


def run_pipeline(
    pipeline: Callable[..., Any],
    arguments: Mapping[str, Any],
    settings: Settings,
    on_event: Callable[[StepEvent], None] = lambda event: None,
) -> Run:
    """Runs a KFP pipeline to its end.

    Args:
        pipeline: A function decorated with `dsl.pipeline`.
        arguments: Values of its parameters; the rest keep their defaults.
        settings: Where state lives.
        on_event: Called as each step starts and ends.

    Returns:
        The finished run.

    Raises:
        BusyError: Another run is under way in the same home.
        StepFailedError: A step failed; the message is the step's own, and names the log.
    """
    from kfp import local

    with _only_run(settings), _environment(settings):
        run = _new_run(pipeline.name, settings)  # type: ignore[attr-defined]
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(run.folder / "steps"),
            workspace_root=str(run.folder / "workspace"),  # KFP deletes this folder at the end of every run
        )
        started = time.monotonic()
        with (run.folder / "log.txt").open("w", encoding="utf-8") as log:
            follower = _Follower(log, on_event)
            with contextlib.redirect_stdout(follower), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*custom or non-Python base image.*")
                warnings.filterwarnings("ignore", message=".*have no effect in the current local runner.*")
                try:
                    result = pipeline(**arguments)
                except RuntimeError as error:
                    raise _explained(follower, run) from error
        run.seconds = time.monotonic() - started
        run.steps = follower.finished
        run.outputs = _plain(result.outputs)
        run.reports = _link_reports(run.folder)
        _write_summary(run, pipeline.name, arguments)  # type: ignore[attr-defined]
        return run


@contextlib.contextmanager
def _only_run(settings: Settings) -> Iterator[None]:
    from filelock import FileLock, Timeout

    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.home / "run.lock", timeout=0):
            yield
    except Timeout as error:
        raise BusyError(
            f"Another run is under way in {settings.home}",
            allowed="one local run at a time, for runs share the feature store",
            remedy="Wait for it to end, or set FTI_HOME to another folder",
        ) from error


@contextlib.contextmanager
def _environment(settings: Settings) -> Iterator[None]:
    """Steps are processes: they see the same home whatever the working directory."""
    before = os.environ.get("FTI_HOME")
    os.environ["FTI_HOME"] = str(settings.home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FTI_HOME"]
        else:
            os.environ["FTI_HOME"] = before


def _new_run(name: str, settings: Settings) -> Run:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    run = Run(id=f"{name.removeprefix('fti-')}-{stamp}", folder=settings.home / "runs" / f"{name.removeprefix('fti-')}-{stamp}")
    run.folder.mkdir(parents=True)
    return run


class _Follower:
    """Stands in for stdout: keeps everything in the log and tells when steps start and end."""

    def __init__(self, log: TextIO, on_event: Callable[[StepEvent], None]) -> None:
        self._log, self._on_event = log, on_event
        self._partial: dict[int, str] = {}  # by thread: KFP runs the iterations of a loop side by side
        self._started: dict[str, list[float]] = {}
        self.finished: list[tuple[str, float]] = []
        self.error: list[str] = []
        self.failed = ""

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        *lines, self._partial[thread] = (self._partial.get(thread, "") + text).split("\n")
        for line in lines:
            self._follow(_ANSI.sub("", line))
        return len(text)

    def flush(self) -> None:
        self._log.flush()

    def isatty(self) -> bool:
        return False

    def _follow(self, line: str) -> None:
        self._log.write(line + "\n")
        if match := _STARTED.search(line):
            self._started.setdefault(match["task"], []).append(time.monotonic())
            self._on_event(StepEvent(match["task"], "RUNNING"))
        elif match := _ENDED.search(line):
            starts = self._started.get(match["task"]) or [time.monotonic()]
            seconds = time.monotonic() - starts.pop(0)
            self.finished.append((match["task"], seconds))
            self.failed = match["task"] if match["status"] != "SUCCESS" else self.failed
            self._on_event(StepEvent(match["task"], match["status"], seconds))
        elif match := _OUR_ERROR.match(line):
            self.error = [match["text"]]
        elif self.error and line.strip() and not self.failed and " - " not in line:
            self.error.append(line.strip())


def _explained(follower: _Follower, run: Run) -> StepFailedError:
    """The step's own error where it is one of ours; else where to look."""
    text = " ".join(follower.error)
    task = follower.failed or "a step"
    return StepFailedError(
        f"{task}: {text}" if text else f"{task} failed in a way that it did not foresee",
        remedy=f"The whole log: {run.folder / 'log.txt'}",
    )


def _plain(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "path", value) for name, value in outputs.items()}


def _link_reports(folder: Path) -> list[Path]:
    """KFP names an artifact's file after the output, without `.html`; a browser wants the ending."""
    reports = []
    for index, page in enumerate(sorted(folder.glob("steps/**/report"), key=lambda page: page.stat().st_mtime)):
        link = folder / "reports" / f"{index + 1}-{page.parent.name}.html"
        link.parent.mkdir(exist_ok=True)
        link.hardlink_to(page)
        reports.append(link)
    return reports


def _write_summary(run: Run, pipeline: str, arguments: Mapping[str, Any]) -> None:
    summary = {
        "pipeline": pipeline,
        "arguments": dict(arguments),
        "seconds": round(run.seconds, 2),
        "steps": [{"task": task, "seconds": round(seconds, 2)} for task, seconds in run.steps],
        "outputs": run.outputs,
        "reports": [str(report) for report in run.reports],
    }
    with atomic_file(run.folder / "run.json") as scratch:
        scratch.write_text(json.dumps(summary, indent=2, default=str))
