"""The body of a push: `{"events": [{column: value}, …]}`, or one such object in each line."""

from typing import Any

from fti.common.errors import SourceError

JSON, LINES = "application/json", "application/x-ndjson"
_SHAPE = '{"events": [{column: value, …}, …]}'


def parse_events(body: bytes, content_type: str) -> list[Any]:
    """The events of a push; their fields are not looked at.

    Args:
        body: JSON, or JSON lines.
        content_type: `JSON` or `LINES`.

    Raises:
        SourceError: It is something else, or holds no event.
    """
    if content_type == LINES:
        events = [_json(line, f"line {number}") for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    else:
        message = _json(body, "the body")
        if not isinstance(message, dict) or message.keys() != {"events"} or not isinstance(message["events"], list):
            raise SourceError("the body has another shape", allowed=_SHAPE)
        events = message["events"]
    if not events:
        raise SourceError("the body holds no event", allowed=f"at least one: {_SHAPE}")
    return events


def _json(text: bytes, where: str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise SourceError(f"{where} is not JSON: {error}") from error
