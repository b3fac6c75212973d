"""Small components and pipelines for the tests of the local runner."""

from typing import Dict, List

from kfp import dsl

from fti.step import step


@step
def shout(text: str, report: dsl.Output[dsl.HTML], table: dsl.Output[dsl.Dataset]) -> str:
    """Writes a report and a table."""
    from pathlib import Path

    Path(report.path).write_text(f"<p>{text}</p>")
    Path(table.path).write_text(text)
    table.metadata["letters"] = len(text)
    return text.upper()


@step
def refuse(text: str) -> str:
    """Fails with one of our errors."""
    from fti.common.errors import SourceError

    raise SourceError(f"{text} cannot be read", allowed="Parquet", remedy="Convert it")


@step
def report_and_refuse(report: dsl.Output[dsl.HTML]):
    """Writes a report, and fails."""
    from pathlib import Path

    from fti.common.errors import RejectedDataError

    Path(report.path).write_text("<p>why</p>")
    raise RejectedDataError("no good")


@dsl.pipeline(name="fti-reporting")
def reporting():
    """Reports and refuses."""
    report_and_refuse()


@step
def crash() -> str:
    """Fails with an error that nobody foresaw."""
    return str(1 / 0)


@step
def wait_for(path: str) -> str:
    """Waits until a file is there."""
    import os
    import time
    from pathlib import Path

    scratch = Path(path + ".scratch")
    scratch.write_text(str(os.getpid()))
    scratch.rename(path + ".started")
    while not Path(path).exists():
        time.sleep(0.02)
    return path


@step
def tell() -> str:
    """Tells by which settings it runs."""
    from fti.common.settings import Settings

    settings = Settings.from_env()
    return f"{settings.offline_uri} {settings.now} {settings.s3_region or 'nowhere'} {settings.s3_secret_key}"


@dsl.pipeline(name="fti-telling")
def telling() -> str:
    """Tells."""
    return tell().outputs["Output"]


@dsl.pipeline(name="fti-shouting")
def shouting(text: str = "hello") -> str:
    """Shouts.

    Args:
        text: What to shout.
    """
    return shout(text=text).outputs["Output"]


@dsl.pipeline(name="fti-many")
def many(entries: List[Dict[str, str]] = [{"text": "a"}, {"text": "b"}, {"text": "c"}]):
    """Shouts many times."""
    with dsl.ParallelFor(entries, parallelism=2) as entry:
        shout(text=entry.text)


@dsl.pipeline(name="fti-refusing")
def refusing(text: str = "x.csv"):
    """Refuses."""
    refuse(text=text)


@dsl.pipeline(name="fti-crashing")
def crashing():
    """Crashes."""
    crash()


@dsl.pipeline(name="fti-waiting")
def waiting(path: str):
    """Waits."""
    wait_for(path=path)
