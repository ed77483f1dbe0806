"""Label records as normal or attack by a list of anomalies, addresses or flows.

As in the published dataset, the first packet of a record decides. Source of the format of MAWILab's CSV files:
http://www.fukuda-lab.org/mawilab/documentation.html.
"""

import codecs
import csv
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.compressions import LONGEST_MAGIC, describe_compression
from utils.errors import InputFileError
from utils.files import check_readable
from utils.records import Records
from utils.schema import ATTACK, NORMAL

MAWILAB_COLUMNS: Final = ("srcIP", "srcPort", "dstIP", "dstPort", "label")
ATTACK_LABELS: Final = ("anomalous", "suspicious")
NORMAL_LABELS: Final = ("notice", "benign")
"""All labels of MAWILab, in lower case."""

_LARGEST_FILE: Final = 64 * 2**20
_WITH_PORTS: Final = (6, 17, 132)  # TCP, UDP, SCTP
_NO_PORT: Final = np.int64(-1)
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Rule(NamedTuple):
    """Fields of the first packet of an attack; None matches anything."""

    source: int | None
    source_port: int | None
    destination: int | None
    destination_port: int | None

    def reverse(self) -> "Rule":
        """Return the rule for the opposite direction."""
        return Rule(self.destination, self.destination_port, self.source, self.source_port)


@dataclass(frozen=True)
class Labels:
    """Rules that tell attacks from normal records.

    Attributes:
        rules: a record that matches one of them is an attack.
        ignored: number of lines that name attacks by IPv6 addresses, which no record has.
    """

    rules: Sequence[Rule]
    ignored: int

    def classify(self, records: Records) -> NDArray[np.int64]:
        """Return the classes (R,) of records."""
        known = np.isin(records.protocol, _WITH_PORTS) & (records.ports > 0)
        port_a, port_b = (np.where(known, ports, _NO_PORT) for ports in (records.ports >> 16, records.ports & 0xFFFF))
        packets = np.column_stack((records.address_a, port_a, records.address_b, port_b)).astype(np.int64)
        attack = np.zeros(len(records), np.bool_)
        for named, rules in self._group_by_fields():
            attack |= _is_among(packets[:, named], rules)
        return np.where(attack, ATTACK, NORMAL)

    def _group_by_fields(self) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
        """Yield each set of fields (C,) that rules name, by index, and the values (K, C) of these rules."""
        groups: dict[tuple[int, ...], list[list[int]]] = {}
        for rule in self.rules:
            values = [(field, value) for field, value in enumerate(rule) if value is not None]
            groups.setdefault(tuple(field for field, _ in values), []).append([value for _, value in values])
        for named, rules in groups.items():
            yield list(named), np.array(rules, np.int64)


def _is_among(rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each row (N, C) equals one of the wanted rows (K, C)."""
    # By sorting: a sender chooses the addresses and ports of its packets, and could make a hash table slow with them.
    among = np.ones(len(rows), np.bool_)
    code, wanted_code = np.zeros(len(rows), np.int64), np.zeros(len(wanted), np.int64)
    for column, wanted_column in zip(rows.T, wanted.T, strict=True):
        values, number = np.unique(wanted_column, return_inverse=True)
        found = np.minimum(np.searchsorted(values, column), len(values) - 1)
        among &= values[found] == column
        # A code below K stands for all columns so far, so that the next product cannot overflow.
        codes, wanted_code = np.unique(wanted_code * len(values) + number, return_inverse=True)
        product = code * len(values) + found
        code = np.minimum(np.searchsorted(codes, product), len(codes) - 1)
        among &= codes[code] == product
    return among


def read_labels(path: Path) -> Labels:
    """Read labels from a file.

    Args:
        path: a CSV of MAWILab, where an empty field matches anything; or a list with one entry per line: ``address``,
            ``address,address`` or ``address,port,address,port``, in either direction, with comments after ``#``. UTF-8,
            or UTF-16 with a byte-order mark. Case does not matter.

    Raises:
        InputFileError: the file is missing or in neither format, or a line matches all traffic.
    """
    if check_readable(path).stat().st_size > _LARGEST_FILE:
        raise InputFileError(f"{path}: is too large for a list of labels; name another file")
    content = path.read_bytes()
    if compressed := describe_compression(content[:LONGEST_MAGIC]):
        raise InputFileError(f"{path}: {compressed}")
    lines = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig", errors="replace").splitlines()
    if "".join(lines[:2]).lstrip().startswith("<"):
        raise InputFileError(f"{path}: is XML, one of MAWILab's two formats; name MAWILab's CSV of the same day")
    try:
        is_mawilab = bool(lines) and {name.lower() for name in MAWILAB_COLUMNS} <= set(_split(lines[0].lower()))
        found = list(_parse_mawilab(lines) if is_mawilab else _parse_list(lines))
    except (ValueError, csv.Error) as problem:
        raise InputFileError(f"{path}: {problem}") from problem
    return Labels([rule for rule in found if rule is not None], found.count(None))


def _parse_mawilab(lines: list[str]) -> Iterator[Rule | None]:
    names = _split(lines[0].lower())
    places = [names.index(name.lower()) for name in MAWILAB_COLUMNS]
    for number, line in enumerate(lines[1:], 2):
        fields = _split(line)
        if any(fields):
            if len(fields) < len(names):
                raise ValueError(f"line {number} has {len(fields)} fields, not {len(names)}; correct or delete it")
            *flow, label = (fields[place] for place in places)
            if _is_attack(label, number):
                yield _parse_rule(flow, number)


def _is_attack(label: str, number: int) -> bool:
    """Return whether a label of MAWILab means an attack.

    Raises:
        ValueError: MAWILab has no such label.
    """
    if label.lower() not in (*ATTACK_LABELS, *NORMAL_LABELS):
        said = f"the label {label[:40]!r} is unknown" if label else "the label is empty"
        known = ", ".join((*ATTACK_LABELS, *NORMAL_LABELS))
        raise ValueError(f"line {number}: {said} (MAWILab's labels are {known}); correct or delete it")
    return label.lower() in ATTACK_LABELS


def _parse_list(lines: list[str]) -> Iterator[Rule | None]:
    for number, line in enumerate(lines, 1):
        match _split(line.partition("#")[0]):
            case [""] | []:
                continue
            case [address]:
                flow = [address, "", "", ""]
            case [address, other]:
                flow = [address, "", other, ""]
            case flow if len(flow) == 4:
                pass
            case _:
                raise ValueError(
                    f"line {number} is not address or address,address or address,port,address,port; correct or delete "
                    f"it (the first line of a CSV of MAWILab must name {', '.join(MAWILAB_COLUMNS)})"
                )
        rule = _parse_rule(flow, number)
        yield rule
        if rule is not None:
            yield rule.reverse()


def _split(line: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line]), [])]


def _parse_rule(flow: Iterable[str], number: int) -> Rule | None:
    """Return the rule of a source, port, destination and port as text; None for IPv6.

    Raises:
        ValueError: an address or port is invalid, or all are empty.
    """
    source, source_port, destination, destination_port = flow
    try:
        addresses = [ipaddress.ip_address(text) if text else None for text in (source, destination)]
    except ValueError as problem:
        raise ValueError(f"line {number}: {problem}; correct or delete it") from problem
    if any(address is not None and address.version == 6 for address in addresses):
        return None
    a, b = (None if address is None else int(address) for address in addresses)
    rule = Rule(a, _parse_port(source_port, number), b, _parse_port(destination_port, number))
    if rule == (None,) * len(rule):
        raise ValueError(f"line {number} names no address and no port, so it matches all traffic; delete it")
    return rule


def _parse_port(text: str, number: int) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError(f"line {number}: {text!r} is not a port (0 to 65535); correct or delete it")
    return int(text)
