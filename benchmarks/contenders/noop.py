"""A bare ASGI application on uvicorn: it reads the request, and answers as many bytes as a predictor would."""

import sys
from typing import Any

import uvicorn

LARGE = 700  # bytes of a request: more are of a batch


def main() -> None:
    port, small, large = map(int, sys.argv[2:5])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        body = b" " * (large if size > LARGE else small)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    options: Any = {"http": "httptools", "loop": "uvloop", "lifespan": "off"}
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning", **options)


if __name__ == "__main__":
    main()
