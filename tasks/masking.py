"""Secrets that the environment holds are shown as `***` in log lines and in the exceptions that Prefect keeps.

This is the last net: what we say ourselves leaves them out where it is said (`spool.without_credentials`, the URIs of
`tinybert.sources`); libraries do not.
"""

import logging
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote, unquote

MASK = "***"
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "RAY_AUTH_TOKEN",
)
"""Whose value is a secret; that of `PREFECT_API_AUTH_STRING` is user:password."""
URL_VARIABLES = ("MLFLOW_TRACKING_URI", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""Whose value is a URL that may hold a user and a password; proxies are read in lower case too."""
SHORTEST = 6
"""Characters of a secret that is looked for; a shorter one would blot out half of every line."""


def secrets() -> list[str]:
    """What must not be shown, as it is and quoted as in a URL; the longest first, as one may hold another."""
    found = {form for value in _values() for form in (value, unquote(value), quote(value), quote(value, safe=""))}
    return sorted((form for form in found if len(form) >= SHORTEST), key=lambda form: (-len(form), form))


def _values() -> Iterator[str]:
    for name in SECRET_VARIABLES:
        yield os.environ.get(name, "")
    yield os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")[2]
    for name in (*URL_VARIABLES, *map(str.lower, URL_VARIABLES)):
        if found := re.search(r"://(?:[^/:@]*:)?([^/]*)@", os.environ.get(name, "")):
            yield found[1]


def masked(text: str) -> str:
    """The text without secrets."""
    for secret in secrets():
        text = text.replace(secret, MASK)
    return text


def masked_error(error: Exception) -> Exception:
    """The exception, and what it followed from, without secrets.

    It is the same one with other words; where its words cannot be changed, a RuntimeError with its class and message.
    """
    for link in _chain(error):
        if any(isinstance(word, str) and masked(word) != word for word in link.args):
            link.args = tuple(masked(word) if isinstance(word, str) else word for word in link.args)
    told = "".join(traceback.format_exception(error))
    if masked(told) == told:
        return error
    return RuntimeError(f"{type(error).__name__}: {masked(str(error))}").with_traceback(error.__traceback__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, and all from which it followed, each once."""
    seen: dict[int, BaseException] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen[id(link)] = link
            waiting += [link.__cause__, link.__context__]
    yield from seen.values()


def mask_logs() -> None:
    """Let every handler of this process mask secrets: those that write to the console, and to Prefect's server."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else []:
            handler.addFilter(_FILTER)  # adds it once


class _Filter(logging.Filter):
    """Rewrites records that hold a secret; none is left out."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the message, and the traceback as handlers will show it."""
        with suppress(TypeError, ValueError):  # of a message that does not fit its arguments; the handler will say so
            message = record.getMessage()
            if (shown := masked(message)) != message:
                record.msg, record.args = shown, None
        if record.exc_info and record.exc_info[1]:
            trace = record.exc_text or "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
            if (shown := masked(trace)) != trace:
                record.exc_text = shown  # which formatters take instead of making it
        return True


_FILTER = _Filter()
