"""What the operator reads while we work: one line an event, for people on a terminal or in a pod's log, or JSON."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

_PLAIN_KEYS = {"event", "level", "timestamp"}


def configure(*, as_json: bool, level: str = "info") -> None:
    """Sends events from `level` (info or debug) on to standard error, as JSON lines or as text."""
    # Other libraries (urllib3's retries) report through logging; only what a person must know passes.
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    last = structlog.processors.JSONRenderer() if as_json else _plain
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ", utc=True),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def get() -> Any:
    """The logger that everything here uses."""
    return structlog.get_logger()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Reports a phase when it begins and, with its seconds, when it ends."""
    start = time.monotonic()
    get().info(f"{name} …")
    try:
        yield
    except BaseException:
        get().error(f"{name}: failed", seconds=round(time.monotonic() - start, 1))
        raise
    get().info(f"{name}: done", seconds=round(time.monotonic() - start, 1))


def _plain(_logger: Any, _method: str, event: Any) -> str:
    rest = "  ".join(f"{key}={value}" for key, value in event.items() if key not in _PLAIN_KEYS)
    level = "" if event["level"] == "info" else f"{event['level'].upper()}: "
    return f"{event['timestamp'][11:19]} {level}{event['event']}" + (f"  ({rest})" if rest else "")
