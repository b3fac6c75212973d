"""Ages, sizes and times as people read them."""

from datetime import datetime, timedelta

_UNITS = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))


def duration_text(span: timedelta | None) -> str:
    """The largest unit that fits twice, such as `36 hours`; `for ever` for none."""
    if span is None:
        return "for ever"
    seconds = round(span.total_seconds())
    unit, size = next(((unit, size) for unit, size in _UNITS if abs(seconds) >= 2 * size), _UNITS[-1])
    return f"{round(seconds / size)} {unit}"


def size_text(size: int) -> str:
    """Bytes, in decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def time_text(instant: datetime | None) -> str:
    """To the minute, in UTC."""
    return f"{instant:%Y-%m-%d %H:%M}" if instant else "–"


def share_text(share: float | None) -> str:
    """In percent; what is not zero is not shown as zero."""
    if share is None:
        return "–"
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "< 0.1%"
