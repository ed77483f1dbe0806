"""Format verdicts on records as alerts in Suricata's EVE JSON format, which SIEMs can read.

An EVE event is one line: an alert, or the counts since the start. Fields of Suricata that a record does not have, such
as bytes and application, are left out. Fields that Suricata does not have are in one object, ``early_exit``. Sources:
https://docs.suricata.io/en/latest/output/eve/eve-json-format.html, for the signature ids https://sidallocation.org, and
for the Community ID https://github.com/corelight/community-id-spec.
"""

import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import blake2b, sha1
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dataset.packets.traffic_counts import TrafficCounts
from offload.alerts.alert_limit import AlertLimit
from offload.defaults import ATTACK_SIGNATURE, REJECTED_SIGNATURE
from offload.edge.batch import Batch
from utils.drift_watch import Alarm
from utils.records import WINDOW_SECONDS, Records, format_addresses
from utils.schema import ATTACK, CLASS_NAMES, REJECTED

Event = dict[str, Any]
"""A JSON object."""

_MICROSECONDS: Final = 1_000_000
_LARGEST_ID: Final = 2**53 - 1  # the largest integer that every JSON reader represents exactly
_ICMP: Final = 1
_PROTOCOLS: Final = {
    _ICMP: "ICMP",
    2: "IGMP",
    4: "IP-in-IP",
    6: "TCP",
    17: "UDP",
    41: "IPv6",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "IPv6-ICMP",
    88: "EIGRP",
    89: "OSPF",
    103: "PIM",
    112: "VRRP",
    115: "L2TP",
    132: "SCTP",
}
"""Names of common protocols in Suricata; for others, the event has the protocol's number."""

_ICMP_COUNTERPARTS: Final = {0: 8, 8: 0, 9: 10, 10: 9, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
"""Types of ICMP requests and replies, each with its counterpart."""


_ATTACK: Final = (1_580_001, "early-exit network: attack", "Misc Attack", 2)
_REJECTED: Final = (1_580_002, "early-exit network: rejected, no exit was certain", "Unknown Traffic", 3)
"""Signatures: id in the range for local use, text, and one of Suricata's categories with its severity."""


def make_alerts(batch: Batch, limit: AlertLimit, in_iface: str | None = None) -> list[Event]:
    """Return an alert for each attack and each rejected record of a decided batch, in the same order.

    Args:
        batch: batch with records.
        limit: limits the number of alerts.
        in_iface: the interface of live traffic.
    """
    records = batch.records
    assert records is not None
    windows, sources = records.window_start.tolist(), records.address_a.tolist()
    signatures = np.where(batch.rejected, REJECTED_SIGNATURE, ATTACK_SIGNATURE).tolist()
    is_suspect = batch.rejected | (batch.prediction == ATTACK)
    suspects = np.flatnonzero(is_suspect).tolist()
    admitted = [at for at in suspects if limit.admit(signatures[at], windows[at], sources[at])]
    chosen = np.array(admitted, dtype=np.intp)
    live = {} if in_iface is None else {"in_iface": in_iface}
    return [
        {**flow, **live, "alert": _name_signature(verdict["decider"] == REJECTED), "early_exit": verdict}
        for flow, verdict in zip(
            _describe_flows(records.take(chosen)), _describe_verdicts(batch, records.window_start, chosen), strict=True
        )
    ]


def _name_signature(rejected: bool) -> Event:
    """Return the object ``alert``, in the form that Suricata writes for a rule."""
    number, text, category, severity = _REJECTED if rejected else _ATTACK
    return {
        "action": "allowed",
        "gid": 1,
        "signature_id": number,
        "rev": 1,
        "signature": text,
        "category": category,
        "severity": severity,
    }


def _describe_flows(records: Records) -> Iterator[Event]:
    """Yield the fields that describe each record; its address a sent the first packet, so it is the client."""
    for time, window, a, b, source, destination, protocol, ports, packets in zip(
        _format_times(records.first_seen),
        records.window_start.tolist(),
        records.address_a.tolist(),
        records.address_b.tolist(),
        format_addresses(records.address_a),
        format_addresses(records.address_b),
        records.protocol.tolist(),
        records.ports.tolist(),
        records.packets.tolist(),
        strict=True,
    ):
        yield {
            "timestamp": time,
            "flow_id": _hash_record(window, a, b),
            "event_type": "alert",
            "src_ip": source,
            "dest_ip": destination,
            **_describe_transport(protocol, ports),
            "community_id": compute_community_id(protocol, a, b, ports),
            "flow": {"pkts_toserver": packets[0], "pkts_toclient": packets[1], "start": time},
        }


def _describe_verdicts(batch: Batch, window_start: NDArray[np.int64], chosen: NDArray[np.intp]) -> Iterator[Event]:
    """Yield the object ``early_exit`` of the alerts on chosen records: decider, verdict and window."""
    for certainty, answered, decider, reason, prediction, window in zip(
        batch.certainty[chosen].tolist(),
        batch.answered[chosen].tolist(),
        batch.decider[chosen].tolist(),
        batch.reason[chosen].tolist(),
        batch.prediction[chosen].tolist(),
        _format_times(window_start[chosen] * _MICROSECONDS),
        strict=True,
    ):
        yield {
            "certainty": round(certainty, 6),
            "exit": 2 if answered else 1,
            "decider": decider,
            "reason": reason,
            "prediction": CLASS_NAMES[prediction],
            "window_start": window,
            "window_seconds": WINDOW_SECONDS,
        }


def _format_times(microseconds: NDArray[np.int64]) -> list[str]:
    """Return times (N,) in microseconds since the epoch as text in Suricata's format, in UTC."""
    return [f"{time}+0000" for time in np.datetime_as_string(microseconds.astype("datetime64[us]")).tolist()]


def _hash_record(window_start: int, address_a: int, address_b: int) -> int:
    """Return a flow id that depends only on a record's window and its two addresses."""
    record = struct.pack(">qII", window_start, *sorted((address_a, address_b)))
    return int.from_bytes(blake2b(record, digest_size=8).digest()) % _LARGEST_ID + 1


def _describe_transport(protocol: int, ports: int) -> Event:
    """Return the protocol of a packet, and its ports or the type and code of an ICMP message.

    An ICMP message of unknown type cannot be distinguished from an echo reply, which is 0, too, and far more common.
    """
    event: Event = {"proto": _PROTOCOLS.get(protocol, str(protocol))}
    if protocol == _ICMP:
        event |= {"icmp_type": ports >> 16, "icmp_code": ports & 0xFFFF}
    elif ports:
        event |= {"src_port": ports >> 16, "dest_port": ports & 0xFFFF}
    return event


def compute_community_id(protocol: int, source: int, destination: int, ports: int) -> str:
    """Return a packet's Community ID, version 1 with seed 0, by which other tools' logs identify the connection, too.

    Args:
        protocol: protocol number of the IPv4 header.
        source: IPv4 address.
        destination: IPv4 address.
        ports: as in ``dataset.packets.packets.Packets``; 0 if they are unknown, then they are left out.
    """
    upper, lower = ports >> 16, ports & 0xFFFF
    directed = protocol == _ICMP and upper not in _ICMP_COUNTERPARTS
    if protocol == _ICMP:
        lower = _ICMP_COUNTERPARTS.get(upper, lower)
    ends = [(source, upper), (destination, lower)]
    (first, first_port), (second, second_port) = ends if directed else sorted(ends)
    hashed = struct.pack(">HIIBB", 0, first, second, protocol, 0)
    if protocol == _ICMP or ports:
        hashed += struct.pack(">HH", first_port, second_port)
    return f"1:{b64encode(sha1(hashed, usedforsecurity=False).digest()).decode()}"


def make_drift(alarm: Alarm, time: int, in_iface: str | None = None) -> Event:
    """Return an anomaly event: the share of a kind of event has left the tolerance of the policy.

    Args:
        alarm: of the watch.
        time: present time in microseconds since the epoch.
        in_iface: the interface, if the traffic comes from one.
    """
    (timestamp,) = _format_times(np.array([time], dtype=np.int64))
    return {
        "timestamp": timestamp,
        **({} if in_iface is None else {"in_iface": in_iface}),
        "event_type": "anomaly",
        "anomaly": {"type": "early_exit", "event": "drift"},
        "early_exit": {
            "category": alarm.category + 1,
            "kind": "vector" if alarm.is_vector else "scores",
            "share": round(alarm.share, 4),
            "reference_share": round(alarm.reference, 4),
            "records": alarm.events,
        },
    }


def make_stats(traffic: TrafficCounts, own: Mapping[str, int], time: int, uptime: int) -> Event:
    """Return a stats event, which reports the counts since the start.

    Args:
        traffic: counts of frames and packets.
        own: further counts by name, for the object ``early_exit``.
        time: present time in microseconds since the epoch.
        uptime: seconds since the start.
    """
    (timestamp,) = _format_times(np.array([time], dtype=np.int64))
    drops = traffic.dropped
    kernel = {} if drops is None else {"kernel_packets": traffic.packets + drops, "kernel_drops": drops}
    return {
        "timestamp": timestamp,
        "event_type": "stats",
        "stats": {
            "uptime": uptime,
            **({"capture": kernel} if kernel else {}),
            "decoder": {"pkts": traffic.packets, "ipv4": traffic.ipv4, "invalid": traffic.malformed},
            "early_exit": {**own, "late": traffic.late, "left_out": traffic.left_out},
        },
    }
