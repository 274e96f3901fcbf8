"""One request at a time to the Kubernetes API, tried again for as long as that can help.

Answers are plain dicts. One counts only if it is JSON of the expected kind: whatever else may answer at that
address (a proxy, a load balancer without a backend) is an API out of reach, never a fact about the node.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity
import urllib3
from urllib3.exceptions import HTTPError

import installer
from installer import log
from installer.cluster.answers import Again, Answer, Call, refused, unreachable
from installer.cluster.connect import Connection
from installer.errors import TemporaryError

Json = dict[str, Any]

_METHODS = {"get": "GET", "list": "GET", "create": "POST", "patch": "PATCH"}
_CONNECT_SECONDS = 10
_SAID_BYTES = 300
_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """How long we try, in seconds: in all, the first and the longest pause between attempts, and one answer.

    `denied` is how many times in a row we take a 401 or 403 before we believe it: a token may have just been
    renewed, and an API server that starts does not know its roles yet.
    """

    total: float = 300
    first: float = 0.5
    longest: float = 20
    answer: float = 30
    denied: int = 4


class Api:
    """The Kubernetes API behind a connection. `requests` counts what was sent."""

    def __init__(self, connection: Connection, patience: Patience) -> None:
        self._connection = connection
        self._patience = patience
        self.requests = 0

    def close(self) -> None:
        """Closes the sockets."""
        self._connection.pool.clear()

    def once(self, call: Call, hook: Callable[[Json], Json] | None = None) -> Json:
        """Sends a request. `hook` sees every JSON object of the answer and may make it smaller.

        Raises Again where another attempt may help, else PermanentError or SettingsError.
        """
        url = self._connection.url.rstrip("/") + call.path
        try:
            answer = self._send(call, url)
        except TemporaryError as error:
            raise Again(error) from error
        except HTTPError as error:
            raise unreachable(call, url, error) from error
        content = _content(answer.data, hook)
        if answer.status < 300 and content.get("kind") == call.kind:
            return content
        known = answer.status >= 400 and content.get("kind") == "Status"
        said = content.get("message") if known else answer.data[:_SAID_BYTES].decode(errors="replace")
        causes = [str(one.get("message", "")) for one in (content.get("details") or {}).get("causes") or ()]
        text = " ".join([*str(said or answer.reason).split(), *(one for one in causes if one not in str(said))])
        raise refused(call, url, self._connection.account, Answer(answer.status, text, known, _pause(answer)))

    def persist(self, attempt: Callable[[], _T], patience: Patience | None = None) -> _T:
        """Makes attempts until one does not raise Again.

        Raises the last attempt's own error once patience (by default, that of all requests) has ended.
        """
        limits = patience or self._patience
        backoff = tenacity.wait_exponential_jitter(multiplier=limits.first, max=limits.longest, jitter=limits.first)
        denied = 0

        def pause(state: tenacity.RetryCallState) -> float:
            return max(backoff(state), _failure(state).pause)

        def ended(state: tenacity.RetryCallState) -> bool:
            nonlocal denied
            denied = denied + 1 if _failure(state).status in (401, 403) else 0
            return denied >= limits.denied or _elapsed(state) + state.upcoming_sleep > limits.total

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Again),
            wait=pause,
            stop=ended,
            before_sleep=_tell,
            retry_error_callback=_give_up,
        )
        return retrying(attempt)

    def _send(self, call: Call, url: str) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": f"sysbox-deploy/{installer.__version__}"}
        if call.body is not None:
            headers["Content-Type"] = call.media
        if authorization := self._connection.authorization():
            headers["Authorization"] = authorization
        seconds = self._patience.answer
        self.requests += 1
        return self._connection.pool.request(
            _METHODS[call.verb],
            url,
            body=None if call.body is None else json.dumps(call.body),
            headers=headers,
            timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, seconds), read=seconds),
            retries=False,
            redirect=False,
        )


def _content(data: bytes, hook: Callable[[Json], Json] | None) -> Json:
    try:
        content = json.loads(data, object_hook=hook)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _pause(answer: urllib3.BaseHTTPResponse) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:  # a date, which no Kubernetes API sends
        return 0.0


def _failure(state: tenacity.RetryCallState) -> Again:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, Again)
    return failure


def _elapsed(state: tenacity.RetryCallState) -> float:
    return state.seconds_since_start or 0.0


def _tell(state: tenacity.RetryCallState) -> None:
    error = _failure(state).error
    log.get().warning(
        f"{error.what}; trying again",
        attempt=state.attempt_number,
        next_in_seconds=round(state.upcoming_sleep, 1),
        found=error.found,
    )


def _give_up(state: tenacity.RetryCallState) -> Any:
    failure = _failure(state)
    failure.error.found += f" (attempt {state.attempt_number}, after {_elapsed(state):.0f} s)"
    raise failure.error from failure.__cause__
