"""What the object store is asked for, and how one that failed answers."""

from support.proxy import Answer


def failure(status: int, code: str) -> Answer:
    """The answer of a store that failed."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>made up</Message></Error>'.encode()
    )
    lines = (f"HTTP/1.1 {status} {code}", f"content-length: {len(body)}", "connection: close", "", "")
    return Answer("\r\n".join(lines).encode() + body)
