"""A client of etcd by its JSON gateway: keys, compare-and-swap, leases. Needs urllib3 (`pip install adam_mp[etcd]`).

Each call has a deadline, and goes to the next endpoint on any fault. In the gateway's JSON, keys and values are base64,
64-bit numbers are texts, and zeros, false and empty lists are left out.

A change whose answer was lost may have happened, or may still happen. The caller reads again and goes on from what it
finds: each change compares a revision, so it cannot happen twice, or after another.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from adam_mp.errors import SettingsError, TransportError
from adam_mp.params.controller.place import EtcdPlace
from adam_mp.transport.addresses import Address

_CALL = 1.0  # seconds that one endpoint has for an answer at most; it has half of a call's time, if that is less
_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds after all endpoints have failed: doubled each time until one answers
_ELECTED = "leader changed"  # what etcd says to a read that waited while it elected its leader
_OLDEST = (3, 4)  # the first version with the gateway under /v3
NO_LEASES: Mapping[str, int] = MappingProxyType({})
_JSON = {"Content-Type": "application/json"}


class EtcdError(TransportError):
    """No endpoint of etcd answers in time, or what it answers cannot be used."""


class _LeaderError(EtcdError):
    """An endpoint has a new leader since it was asked, and so must be asked again."""


@dataclasses.dataclass(frozen=True)
class Found:
    """The value of a key. `revision` is that of its last change, 0 for a key that does not exist."""

    value: bytes = b""
    revision: int = 0


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """The condition of a swap: `key` was last changed in `revision`, 0 for a key that does not exist."""

    key: str
    revision: int


class Etcd:
    """A client for the keys of one run. Only one thread may use it. `clock` and `sleep` are replaced in tests.

    Raises SettingsError if urllib3 is missing or the files for TLS cannot be used.
    """

    def __init__(
        self, place: EtcdPlace, clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        try:
            import urllib3
        except ImportError:
            raise SettingsError(
                "--controller needs urllib3, which is not installed; install it with: pip install 'adam_mp[etcd]'"
            ) from None
        self._place, self._clock, self._sleep, self._at = place, clock, sleep, 0
        self._pause = _PAUSE
        self._timeout = urllib3.Timeout
        self._faults: type[Exception] = urllib3.exceptions.HTTPError
        options: dict[str, Any] = {}
        if place.tls is not None:
            try:
                context = ssl.create_default_context(cafile=str(place.tls.authority))
                context.load_cert_chain(str(place.tls.certificate), str(place.tls.key), password="")
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(f"--controller-tls: the files cannot be used: {error}") from None
            options["ssl_context"] = context
        self._pool = urllib3.PoolManager(retries=False, maxsize=1, **options)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def check(self, seconds: float) -> None:
        """Raise EtcdError if no endpoint answers in time, or what answers is no etcd with a gateway under /v3."""
        told = str(self._ask("GET", "/version", None, seconds).get("etcdserver") or "")
        version = tuple(map(int, re.findall(r"\d+", told)[:2]))
        if version < _OLDEST:
            raise EtcdError(f"etcd at {self._place} is of version {told or 'unknown'}; expected 3.4 or newer")
        self.read(("run",), seconds)  # the gateway may be turned off

    def read(self, keys: Sequence[str], seconds: float) -> dict[str, Found]:
        """Return those of some keys that exist, as of one moment. Raises EtcdError if no endpoint answers in time."""
        reads = [{"requestRange": {"key": self._key(key)}} for key in keys]
        answer = self._ask("POST", "/v3/kv/txn", {"success": reads}, seconds)
        with self._understood():
            kvs = [each for response in answer["responses"] for each in response["response_range"].get("kvs", ())]
            return {
                base64.b64decode(each["key"]).decode().removeprefix(self._place.prefix): Found(
                    base64.b64decode(each.get("value", "")), int(each["mod_revision"])
                )
                for each in kvs
            }

    def swap(
        self, values: Mapping[str, bytes], conditions: Sequence[Unchanged], seconds: float,
        leases: Mapping[str, int] = NO_LEASES,
    ) -> int:  # fmt: skip
        """Write keys if all conditions hold; return the revision of the change, 0 if one does not hold.

        A key that is written with a lease, by its name in `leases`, goes when the lease ends. Raises EtcdError if it
        cannot be told within `seconds` whether the keys are written.
        """
        puts = [
            {"requestPut": {"key": self._key(key), "value": _encoded(value), "lease": str(leases.get(key, 0))}}
            for key, value in values.items()
        ]
        return self._change(puts, conditions, seconds)

    def forget(self, conditions: Sequence[Unchanged], seconds: float) -> int:
        """Remove all keys of the run if all conditions hold; returns and raises as `swap` does."""
        prefix = self._place.prefix.encode()
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        remove = {"requestDeleteRange": {"key": _encoded(prefix), "range_end": _encoded(end)}}
        return self._change([remove], conditions, seconds)

    def lease(self, ends_after: int, seconds: float) -> int:
        """Return the number of a new lease, which ends `ends_after` seconds after it was last kept alive."""
        answer = self._ask("POST", "/v3/lease/grant", {"TTL": str(ends_after)}, seconds)
        with self._understood():
            return int(answer["ID"])

    def keep_alive(self, lease: int, seconds: float) -> bool:
        """Keep a lease alive; return False if it has ended."""
        answer = self._ask("POST", "/v3/lease/keepalive", {"ID": str(lease)}, seconds)
        with self._understood():
            return int(answer["result"].get("TTL", 0)) > 0

    def end_lease(self, lease: int, seconds: float) -> None:
        """End a lease: keys that have it go at once. If etcd does not answer, it ends by itself."""
        with contextlib.suppress(EtcdError):
            self._ask("POST", "/v3/lease/revoke", {"ID": str(lease)}, seconds)

    # One call.

    def _key(self, name: str) -> str:
        return _encoded((self._place.prefix + name).encode())

    def _change(self, operations: list[Any], conditions: Sequence[Unchanged], seconds: float) -> int:
        compare = [
            {"key": self._key(each.key), "target": "MOD", "result": "EQUAL", "mod_revision": str(each.revision)}
            for each in conditions
        ]
        answer = self._ask("POST", "/v3/kv/txn", {"compare": compare, "success": operations}, seconds)
        with self._understood():
            return int(answer["header"]["revision"]) if answer.get("succeeded") is True else 0

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        """Raise EtcdError if an answer is not what etcd sends."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError):
            raise EtcdError(f"etcd at {self._place} answers what cannot be understood; is it etcd?") from None

    def _ask(self, method: str, path: str, content: Mapping[str, Any] | None, seconds: float) -> dict[str, Any]:
        """Return the answer of the first endpoint that gives one. Raises EtcdError after `seconds`."""
        deadline, share, troubles = self._clock() + seconds, min(_CALL, seconds / 2), dict[Address, str]()
        while True:
            endpoint, left = self._place.endpoints[self._at], deadline - self._clock()
            try:
                answer = self._ask_one(endpoint, method, path, content, min(share, max(left, 0.01)))
                self._pause = _PAUSE
                return answer
            except EtcdError as error:
                if left >= share or endpoint not in troubles:  # else it had too little time
                    troubles[endpoint] = str(error)
                elects = isinstance(error, _LeaderError)
            if elects:
                self._sleep(_PAUSE)
            else:
                self._at = (self._at + 1) % len(self._place.endpoints)
                if self._at == 0:
                    self._sleep(self._pause)
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            if self._clock() >= deadline:
                raise EtcdError("; ".join(f"etcd at {endpoint} {trouble}" for endpoint, trouble in troubles.items()))

    def _ask_one(
        self, endpoint: Address, method: str, path: str, content: Mapping[str, Any] | None, seconds: float
    ) -> dict[str, Any]:  # fmt: skip
        """Return one endpoint's answer; raises EtcdError, whose text is the reason alone."""
        scheme = "http" if self._place.tls is None else "https"
        body = None if content is None else json.dumps(content).encode()
        try:
            answer = self._pool.request(
                method, f"{scheme}://{endpoint}{path}", body=body, headers=_JSON,
                timeout=self._timeout(total=seconds), redirect=False,
            )  # fmt: skip
            found = json.loads(answer.data)
        except self._faults as error:
            raise EtcdError(_reason(error)) from None
        except (ValueError, RecursionError):
            raise EtcdError(f"answers {answer.status} without JSON; is it etcd 3.4 or newer, gateway on?") from None
        if not isinstance(found, dict):
            raise EtcdError("answers with JSON that etcd does not send; is it etcd?")
        if answer.status != 200:
            reason = str(found.get("error") or found.get("message") or "no reason")
            kind = _LeaderError if _ELECTED in reason else EtcdError
            raise kind(f"answers {answer.status}: {reason}")
        return found


def _reason(error: Exception) -> str:
    """Say in a few words why a call failed."""
    text = str(error)
    if "CERTIFICATE" in text.upper() or "SSL" in text:
        return f"does not agree on TLS: {text.rpartition('] ')[2].partition(' (_ssl')[0]}"
    if "imeout" in type(error).__name__ or "timed out" in text:
        return "gives no answer in time"
    return f"is not reached: {text.rpartition('] ')[2] or type(error).__name__}"


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
