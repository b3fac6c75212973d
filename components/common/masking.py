"""Takes out of a text what may be secret in a URL: user, password, and the query, where tokens and signatures live."""

import re

_USER = re.compile(r"(\b[\w.+-]+://)[^/\s\"']+@")  # to the last @ of the authority: a password may hold one
_QUERY = re.compile(r"(\bhttps?://[^\s\"'?]+\?)[^\s\"']+")


def masked(text: str) -> str:
    """The text with `***` in place of what may be secret in its URLs; `${NAME}` is masked too."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
