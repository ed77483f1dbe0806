"""Verdicts on flow records as events of Suricata's EVE JSON, which SIEMs read unchanged.

An event is what stands on one line of such a file: of a verdict, or of what was counted since the start. What
Suricata knows and a flow record does not, such as bytes and application, is left out. All that is our own is in
one object, ``early_exit``. Sources: https://docs.suricata.io/en/latest/output/eve/eve-json-format.html, for the
signature ids https://sidallocation.org, and for the Community ID https://github.com/corelight/community-id-spec.
"""

import struct
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha1
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from offload.alert_limit import ATTACK_SIGNATURE, REJECTED_SIGNATURE, AlertLimit
from offload.verdicts import Verdicts
from utils.records import WINDOW_SECONDS, Records, format_addresses
from utils.schema import ATTACK, CLASS_NAMES, REJECTED

Event = dict[str, Any]
"""A JSON object."""

_MICROSECONDS: Final = 1_000_000
_LARGEST_ID: Final = 2**53 - 1  # the largest whole number that every reader of JSON keeps exactly
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
"""As Suricata spells those in common use; of any other protocol the number stands in the event."""

_ICMP_COUNTERPARTS: Final = {0: 8, 8: 0, 9: 10, 10: 9, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
"""Types of ICMP messages that are asked and answered, each with the other."""


_ATTACK: Final = (1_580_001, "early-exit network: attack", "Misc Attack", 2)
_REJECTED: Final = (1_580_002, "early-exit network: rejected, no exit was certain", "Unknown Traffic", 3)
"""Signatures: an id of those for local use, a text, and one of Suricata's own categories with its severity."""


def alerts(records: Records, verdicts: Verdicts, limit: AlertLimit, in_iface: str | None = None) -> list[Event]:
    """Return an event for each record that was decided to be an attack, and for rejected ones, in their order.

    Args:
        records: R of them.
        verdicts: on each of them.
        limit: of alerts.
        in_iface: the interface where the packets were captured, if they were captured live.
    """
    windows, sources = records.window_start.tolist(), records.address_a.tolist()
    signatures = np.where(verdicts.rejected, REJECTED_SIGNATURE, ATTACK_SIGNATURE).tolist()
    suspect = verdicts.rejected | (verdicts.prediction == ATTACK)
    told = [at for at in np.flatnonzero(suspect).tolist() if limit.admits(signatures[at], windows[at], sources[at])]
    chosen = np.array(told, dtype=np.intp)
    live = {} if in_iface is None else {"in_iface": in_iface}
    return [
        {**flow, **live, "alert": _alert(decision["decider"] == REJECTED), "early_exit": decision}
        for flow, decision in zip(_flows(records.take(chosen)), _decisions(records, verdicts, chosen), strict=True)
    ]


def _alert(rejected: bool) -> Event:
    """Return what Suricata would say of the rule that matched."""
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


def _flows(records: Records) -> Iterator[Event]:
    """Yield what an alert says of each record itself: a is the client, for it sent first."""
    for time, window, a, b, source, destination, protocol, ports, packets in zip(
        _moments(records.first_seen),
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
            "flow_id": _flow_id(window, a, b),
            "event_type": "alert",
            "src_ip": source,
            "dest_ip": destination,
            **_transport(protocol, ports),
            "community_id": community_id(protocol, a, b, ports),
            "flow": {"pkts_toserver": packets[0], "pkts_toclient": packets[1], "start": time},
        }


def _decisions(records: Records, verdicts: Verdicts, chosen: NDArray[np.intp]) -> Iterator[Event]:
    """Yield our own part of the alerts on some records: who decided what, and on which window."""
    for certainty, answered, decider, reason, prediction, window in zip(
        verdicts.certainty[chosen].tolist(),
        verdicts.answered[chosen].tolist(),
        verdicts.decider[chosen].tolist(),
        verdicts.reason[chosen].tolist(),
        verdicts.prediction[chosen].tolist(),
        _moments(records.window_start[chosen] * _MICROSECONDS),
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


def _moments(microseconds: NDArray[np.int64]) -> list[str]:
    """Return times (N,) since the epoch as Suricata prints them, in UTC."""
    return [f"{time}+0000" for time in np.datetime_as_string(microseconds.astype("datetime64[us]")).tolist()]


def _flow_id(window_start: int, address_a: int, address_b: int) -> int:
    """Return a number of the record's own, the same in every run: of its window and its two addresses."""
    record = struct.pack(">qII", window_start, *sorted((address_a, address_b)))
    return int.from_bytes(blake2b(record, digest_size=8).digest()) % _LARGEST_ID + 1


def _transport(protocol: int, ports: int) -> Event:
    """Return the protocol of a packet, and the ports or the kind of ICMP message that ``Records.ports`` holds.

    An ICMP message of a kind that is not known cannot be told from an echo reply, which is 0, too, and far more common.
    """
    event: Event = {"proto": _PROTOCOLS.get(protocol, str(protocol))}
    if protocol == _ICMP:
        event |= {"icmp_type": ports >> 16, "icmp_code": ports & 0xFFFF}
    elif ports:
        event |= {"src_port": ports >> 16, "dest_port": ports & 0xFFFF}
    return event


def community_id(protocol: int, source: int, destination: int, ports: int) -> str:
    """Return a packet's Community ID, version 1 with seed 0: it names the connection in other tools' logs too.

    Args:
        protocol: of the IPv4 header.
        source: IPv4 address.
        destination: IPv4 address.
        ports: as in ``dataset.flow_features.Packets``; where they are not known, the ID is made without them.
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


@dataclass(frozen=True)
class Counts:
    """What there was since the start.

    Attributes:
        packets: all frames.
        ipv4: of them, IPv4 packets.
        invalid: too short for what they claim to be.
        records: that were decided on.
        alerts: that were written.
        offloaded: records that exit 1 was not certain of, which were sent on to exit 2.
        rejected: records that no exit was certain of.
        attack_suppressed: alerts on attacks that were not written, because of a limit.
        rejected_suppressed: alerts on rejected records that were not written, because of a limit.
        unwritten: events that could not be written, for example because the disk was full.
        late: packets left out, for their window was over.
        left_out: packets left out, for there was no room.
        kernel_packets: captured live, by the kernel's count; None: of a file.
        kernel_drops: packets that the kernel had no room for; None: of a file.
    """

    packets: int
    ipv4: int
    invalid: int
    records: int
    alerts: int
    offloaded: int
    rejected: int
    attack_suppressed: int
    rejected_suppressed: int
    unwritten: int = 0
    late: int = 0
    left_out: int = 0
    kernel_packets: int | None = None
    kernel_drops: int | None = None


_OWN_COUNTS: Final = (
    "records", "alerts", "offloaded", "rejected", "attack_suppressed", "rejected_suppressed", "unwritten", "late",
    "left_out",
)  # fmt: skip


def stats(counts: Counts, time: int, uptime: int) -> Event:
    """Return the event that tells what was counted.

    Args:
        counts: since the start.
        time: now, in microseconds since the epoch.
        uptime: seconds since the start.
    """
    (timestamp,) = _moments(np.array([time], dtype=np.int64))
    kernel = {"kernel_packets": counts.kernel_packets, "kernel_drops": counts.kernel_drops}
    return {
        "timestamp": timestamp,
        "event_type": "stats",
        "stats": {
            "uptime": uptime,
            **({} if counts.kernel_packets is None else {"capture": kernel}),
            "decoder": {"pkts": counts.packets, "ipv4": counts.ipv4, "invalid": counts.invalid},
            "early_exit": {name: getattr(counts, name) for name in _OWN_COUNTS},
        },
    }
