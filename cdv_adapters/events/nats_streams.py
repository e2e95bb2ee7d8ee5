"""The wanted configuration of the streams and their consumers, and how the server's configuration differs from it.

JSON shapes are those of the JetStream API; its durations are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cdv_core.domain.times import parse_time
from cdv_core.ports.events import DUPLICATE_WINDOW, STREAMS, StreamState

CONSUMERS: Final = ("GATEWAY_FANOUT", "DURABLE_DEVTOOLS")  # spec: events
_FULL: Final = 0.9  # ours: share of max_bytes or max_msgs above which the stream may have dropped messages


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What an operator can configure.

    `max_age`, `max_bytes`: limits of each stream; beyond them the oldest messages are dropped. `replicas`: 1, or 3 or 5
    in a cluster. `ack_wait`: after this time a consumer receives an unacknowledged message again. `max_ack_pending`:
    with this many unacknowledged messages, a consumer receives no new ones.
    """

    max_age: timedelta = timedelta(days=7)
    max_bytes: int = 1024**3
    replicas: int = 1
    ack_wait: timedelta = timedelta(seconds=30)
    max_ack_pending: int = 1000

    def stream(self, name: str, *, batching: bool = True) -> dict[str, Any]:
        """Return the stream's configuration. `batching`: whether the server supports atomic batches."""
        return {
            "name": name,
            "subjects": [f"{STREAMS[name]}>"],  # not `*`: a collection's name has several tokens
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": _nanoseconds(self.max_age),
            "max_bytes": self.max_bytes,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "num_replicas": self.replicas,
            "duplicate_window": _nanoseconds(DUPLICATE_WINDOW),
            **({"allow_atomic": True} if batching else {}),
        }

    def consumer(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "durable_name": name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": _nanoseconds(self.ack_wait),
            "max_ack_pending": self.max_ack_pending,
            "max_deliver": -1,
        }


@dataclass(frozen=True, slots=True)
class StreamConfigDifference:
    """A setting whose value is not the wanted one. `where`: the stream, or `stream/consumer`. Values: as in the API."""

    where: str
    setting: str
    wanted: object
    found: object

    def __str__(self) -> str:
        return f"{self.where}: {self.setting} is {self.found!r}, not {self.wanted!r}"


def differences(where: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[StreamConfigDifference]:
    """Yield each setting of `wanted` whose value in `found` differs. Settings that only `found` has are ignored."""
    for setting, value in wanted.items():
        if found.get(setting) != value:
            yield StreamConfigDifference(where, setting, value, found.get(setting))


def stream_state(info: Mapping[str, Any]) -> StreamState:
    """Return the state in a stream info response."""
    state, name = info["state"], info["config"]["name"]
    return StreamState(
        name,
        STREAMS[name],
        info["created"],
        max(state["first_seq"], 1),  # 0 before the first message
        state["last_seq"],
        state["messages"],
        _complete_since(info),
    )


def _complete_since(info: Mapping[str, Any]) -> datetime | None:
    config, state = info["config"], info["state"]
    now = parse_time(info["ts"], "ts")  # the server's clock, as for the messages' times
    if config["retention"] != "limits" or config.get("max_msgs_per_subject", -1) > 0:
        return now  # not our configuration: the server may remove messages of any age
    limits = [
        since
        for since in (
            now - timedelta(microseconds=config["max_age"] / 1000) if config.get("max_age") else None,
            parse_time(state["first_ts"], "first_ts") if _is_full(config, state) else None,
        )
        if since is not None
    ]
    return max(limits, default=None)


def _is_full(config: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    return any(
        0 < config.get(limit, -1) * _FULL <= state[size]
        for limit, size in (("max_bytes", "bytes"), ("max_msgs", "messages"))
    )


def _nanoseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1) * 1000
