"""Runs a pipeline in KFP's own local runner, each step a process of this Python, all state under `.fti/runs/`."""

import builtins
import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from fti.common.errors import BusyError, ConfigError, FtiError, StorageError
from fti.common.files import atomic_file
from fti.common.masking import masked
from fti.common.settings import Settings
from fti.local_step import OnStep, Step, Steps


class StepFailedError(FtiError):
    """A step of a local run failed; its own words are in the message."""


@dataclass
class Run:
    """One run of a pipeline on this machine.

    Attributes:
        id: The name of its folder under `<home>/runs`.
        folder: Where its log, artifacts and reports lie.
        seconds: Wall time.
        steps: What each step took, in order of their end.
        outputs: The pipeline's own outputs; an artifact is given by its path.
        reports: The HTML reports that its steps wrote.
    """

    id: str
    folder: Path
    seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)
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
    on_step: OnStep = lambda step: None,
) -> Run:
    """Runs a KFP pipeline to its end.

    Args:
        pipeline: A function decorated with `dsl.pipeline`.
        arguments: Values of its parameters; the rest keep their defaults.
        settings: What the steps run by too: where state lives, how stores are reached, what time it is.
        on_step: Called as each step starts and as it ends.

    Returns:
        The finished run.

    Raises:
        BusyError: Another run is under way in the same home.
        StepFailedError: A step failed; the message is the step's own, and names the log.
    """
    from kfp import local

    with _storage_errors(settings), _only_run(settings), _environment(settings):
        run = _new_run(pipeline.name, settings)  # type: ignore[attr-defined]
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(run.folder / "steps"),
            workspace_root=str(run.folder / "workspace"),  # KFP deletes this folder at the end of every run
        )
        started = time.monotonic()

        def follow(step: Step) -> None:
            run.steps += [step] if step.seconds is not None else []
            on_step(step)

        try:
            with (run.folder / "log.txt").open("w", encoding="utf-8") as log:
                run.outputs = _execute(pipeline, arguments, run, Steps(log, follow), log)
        finally:
            run.seconds = time.monotonic() - started
            run.reports = _link_reports(run.folder)
            _write_summary(run, pipeline.name, arguments)  # type: ignore[attr-defined]
        return run


def _execute(
    pipeline: Callable[..., Any], arguments: Mapping[str, Any], run: Run, steps: Steps, log: TextIO
) -> dict[str, Any]:
    with steps.observed(), contextlib.redirect_stdout(log), _quiet(), _own_logging():
        try:
            outputs = pipeline(**arguments).outputs
        except Exception as error:  # KFP raises whatever it meets: RuntimeError, TypeError, its own
            raise _explained(run, error) from error
    return {name: getattr(value, "path", value) for name, value in outputs.items()}


@contextlib.contextmanager
def _storage_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{error.filename or settings.home} could not be used: {error.strerror or error}",
            allowed=f"a folder that can be written, with free space; FTI_HOME is {settings.home}",
        ) from error


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
    """Steps are processes: they read these very settings, whatever the working directory and the environment say."""
    wanted = settings.environ()
    before = {name: os.environ[name] for name in wanted if name in os.environ}
    try:
        for name, value in wanted.items():
            _set(name, value)
        yield
    finally:
        for name in wanted:
            _set(name, before.get(name, ""))


def _set(name: str, value: str) -> None:
    if value:
        os.environ[name] = value
    else:
        os.environ.pop(name, None)


def _new_run(pipeline: str, settings: Settings) -> Run:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    name = f"{pipeline.removeprefix('fti-')}-{stamp}"
    run = Run(id=name, folder=settings.home / "runs" / name)
    run.folder.mkdir(parents=True)
    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings by which KFP says that images and display names mean nothing to its local runner."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*custom or non-Python base image.*")
        warnings.filterwarnings("ignore", message=".*have no effect in the current local runner.*")
        yield


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Gives `print` and the logging handlers back: KFP puts its own in place and, under a loop, loses track of them."""
    root = logging.getLogger()
    before, level, handlers = builtins.print, root.level, root.handlers[:]
    try:
        yield
    finally:
        builtins.print, root.handlers[:] = before, handlers
        root.setLevel(level)


def _explained(run: Run, error: Exception) -> FtiError:
    """The failed step's own error where it is one of ours; else where to look."""
    where = [f"The whole log: {run.folder / 'log.txt'}"]
    failed = next((step for step in run.steps if step.failed), None)
    if failed is None:
        reason = masked(" ".join(str(error).split()))[:500]
        return ConfigError(f"the pipeline could not be run: {reason}", remedy="Check its parameters: fti run … --help")
    if any(run.folder.glob("steps/**/report")):
        where.insert(0, f"The reports: {run.folder / 'reports'}")
    said = (
        f"{failed.name}: {failed.error}" if failed.error else f"{failed.name} failed in a way that it did not foresee"
    )
    return StepFailedError(said, remedy=". ".join(where))


def _link_reports(folder: Path) -> list[Path]:
    """KFP names an artifact's file after the output, without `.html`; a browser wants the ending."""
    reports = []
    for index, page in enumerate(sorted(folder.glob("steps/**/report"), key=lambda page: page.stat().st_mtime)):
        link = folder / "reports" / f"{index + 1}-{_subject(page.parent)}.html"
        link.parent.mkdir(exist_ok=True)
        link.hardlink_to(page)
        reports.append(link)
    return reports


def _subject(task: Path) -> str:
    """A task's name, and the table that it worked on."""
    try:
        artifacts = json.loads((task / "executor_output.json").read_text(encoding="utf-8"))["artifacts"].values()
    except (FileNotFoundError, KeyError):  # it failed
        return task.name
    tables = [artifact["artifacts"][0]["metadata"].get("table") for artifact in artifacts]
    return "-".join(filter(None, [task.name, next(filter(None, tables), "")]))


def _write_summary(run: Run, pipeline: str, arguments: Mapping[str, Any]) -> None:
    summary = {
        "pipeline": pipeline,
        "arguments": json.loads(masked(json.dumps(dict(arguments), default=str))),
        "seconds": round(run.seconds, 2),
        "steps": [asdict(step) for step in run.steps],
        "outputs": run.outputs,
        "reports": [str(report) for report in run.reports],
    }
    with atomic_file(run.folder / "run.json") as scratch:
        scratch.write_text(json.dumps(summary, indent=2, default=str))
