"""JSON over HTTP to a service that may be busy, slow or gone: retries with growing pauses, and what they ended in."""

from __future__ import annotations

import http.client
import ipaddress
import json
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from plaudit.errors import RewardError
from plaudit.rewards.contract import Failure

_BUSY = frozenset((408, 409, 425, 429))
"""Refusals that time mends; so may every error of the server's own (5xx)."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LONGEST_RETRY_AFTER = 120.0
_MOST_BYTES = 16 << 20
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Refusal:
    """The service understood the request and does not answer it: asking again is of no use.

    Attributes:
        status: of HTTP.
        message: what it says.
        code: its key for it, or nothing.
    """

    status: int
    message: str
    code: str = ""

    def names(self, *words: str) -> bool:
        """Whether it speaks of one of these."""
        text = f"{self.code} {self.message}".lower()
        return any(word in text for word in words)


@dataclass(frozen=True, slots=True)
class _Later:
    """This attempt failed, and the next may not."""

    failure: Failure
    wait: float | None = None
    """seconds that the service asked for"""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:  # a POST that is sent elsewhere loses its body
        return None


class Transport:
    """POSTs to one address. A proxy of the environment is used, except for this machine's own addresses.

    Args:
        url: where to.
        headers: sent with each request; their values are never shown.
        timeout: seconds for one attempt, from the connection to the last byte.
        retries: attempts after the first.
        first_pause: seconds before the first retry at most; doubled before each further one.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, timeout: float, retries: int, first_pause: float = _FIRST_PAUSE
    ) -> None:
        self.url, self.timeout, self.retries, self._first_pause = url, timeout, retries, first_pause
        self._headers = {"Content-Type": "application/json", "User-Agent": "plaudit", **headers}
        self._secrets = [v.removeprefix("Bearer ") for v in headers.values()]
        proxies = [urllib.request.ProxyHandler({})] if _is_local(url) else []
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)

    def post(self, body: Mapping[str, Any], stop: threading.Event) -> dict[str, Any] | Refusal | Failure:
        """The reply's JSON object, or why there is none.

        Args:
            stop: set when nobody waits for the reply any more.

        Raises:
            RewardError: PL708, the service's certificate is not valid.
        """
        encoded, attempt = json.dumps(body).encode(), 0
        while True:
            found = self._attempt(encoded)
            if not isinstance(found, _Later):
                return found
            kind, message = found.failure.kind, found.failure.message
            attempt += 1
            if found.wait is not None and found.wait > _LONGEST_RETRY_AFTER:
                return Failure(kind, f"{message}; it asks to wait {found.wait:.0f} s")
            if attempt > self.retries or stop.wait(self._pause(attempt, found.wait)):
                return Failure(kind, message if attempt == 1 else f"{message} ({attempt} attempts)")

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt; by chance, or all that were refused together would come back together."""
        if asked is not None:
            return asked + random.uniform(0.0, self._first_pause)
        return min(_LONGEST_PAUSE, self._first_pause * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)

    def _attempt(self, body: bytes) -> dict[str, Any] | Refusal | Failure | _Later:
        try:
            request = urllib.request.Request(self.url, body, self._headers, method="POST")
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._parsed(_read(response, time.monotonic() + self.timeout))
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except urllib.error.URLError as error:
            return self._unreached(error.reason if isinstance(error.reason, BaseException) else error)
        except (OSError, http.client.HTTPException) as error:
            return self._unreached(error)

    def _unreached(self, error: BaseException) -> _Later:
        if isinstance(error, ssl.SSLCertVerificationError):
            what = f"its certificate is not valid: {error.verify_message}"
            raise RewardError("PL708", what, where=self.url, mend="check the address and the time of this machine")
        if isinstance(error, TimeoutError):
            return _Later(Failure("timeout", f"no whole reply within {self.timeout:g} s"))
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return _Later(Failure("unavailable", f"{urlsplit(self.url).netloc}: {what}"))

    def _refused(self, error: urllib.error.HTTPError) -> Refusal | _Later:
        try:
            text = _read(error, time.monotonic() + self.timeout).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):  # the status says enough
            text = ""
        message, code = self._said(text)
        if error.code in _BUSY or error.code >= 500:
            failure = Failure("unavailable", f"HTTP {error.code}: {message or error.reason}")
            return _Later(failure, _seconds(error.headers.get("Retry-After")))
        return Refusal(error.code, message or str(error.reason), code)

    def _parsed(self, body: bytes) -> dict[str, Any] | Failure:
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            text = self._plain(body.decode("utf-8", "replace"))
            return Failure("bad_reply", f"the endpoint's reply is not JSON: {text[:80]!r}")
        if not isinstance(values, dict):
            return Failure("bad_reply", f"the endpoint's reply is JSON, but no object: {type(values).__name__}")
        return values

    def _said(self, text: str) -> tuple[str, str]:
        """Message and code of an error's body, in any of the forms that services have."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return self._plain(text), ""
        inner = values.get("error", values) if isinstance(values, dict) else values
        if not isinstance(inner, dict):
            return self._plain(str(inner)), ""
        message = next((inner[k] for k in ("message", "detail", "msg") if inner.get(k)), inner)
        return self._plain(str(message)), f"{inner.get('code') or ''} {inner.get('param') or ''}".strip()

    def _plain(self, text: str) -> str:
        """In one line, cut, and without what must not be shown."""
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "***")
        line = " ".join(text.split())
        return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _read(response: Any, end: float) -> bytes:
    """The whole body; a service that sends a byte now and then does not hold us for ever."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > end:
            raise TimeoutError
        if size > _MOST_BYTES:
            raise http.client.HTTPException(f"a reply of more than {_MOST_BYTES >> 20} MiB")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _seconds(retry_after: str | None) -> float | None:
    """What Retry-After asks for: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
