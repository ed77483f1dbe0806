"""Labels of flow records: which of them a list of anomalies, addresses or flows calls attacks.

Sources: MAWILab's CSV files (http://www.fukuda-lab.org/mawilab/documentation.html), by the packet that a record begins
with, as the published dataset was labelled; or plain lists.
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
"""MAWILab's labels, in lower case; there are no others."""

_LARGEST_FILE: Final = 64 * 2**20
_WITH_PORTS: Final = (6, 17, 132)  # TCP, UDP, SCTP
_NO_PORT: Final = np.int64(-1)
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Rule(NamedTuple):
    """What a record's first packet must be for the record to be an attack; None stands for anything."""

    source: int | None
    source_port: int | None
    destination: int | None
    destination_port: int | None

    def turned(self) -> "Rule":
        """Return the rule for packets the other way."""
        return Rule(self.destination, self.destination_port, self.source, self.source_port)


@dataclass(frozen=True)
class Labels:
    """Which records are attacks.

    Attributes:
        rules: a record that fits one of them is one.
        ignored: lines that speak of IPv6, which no record is made of.
    """

    rules: Sequence[Rule]
    ignored: int

    def of(self, records: Records) -> NDArray[np.int64]:
        """Return the classes (R,) of records."""
        known = np.isin(records.protocol, _WITH_PORTS) & (records.ports > 0)
        port_a, port_b = (np.where(known, ports, _NO_PORT) for ports in (records.ports >> 16, records.ports & 0xFFFF))
        packets = np.column_stack((records.address_a, port_a, records.address_b, port_b)).astype(np.int64)
        attack = np.zeros(len(records), np.bool_)
        for named, rules in self._by_what_they_name():
            attack |= _are_among(packets[:, named], rules)
        return np.where(attack, ATTACK, NORMAL)

    def _by_what_they_name(self) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
        """Yield the numbers (C,) of the fields that some rules name, and what these rules say of them (K, C)."""
        groups: dict[tuple[int, ...], list[list[int]]] = {}
        for rule in self.rules:
            said = [(number, value) for number, value in enumerate(rule) if value is not None]
            groups.setdefault(tuple(number for number, _ in said), []).append([value for _, value in said])
        for named, rules in groups.items():
            yield list(named), np.array(rules, np.int64)


def _are_among(rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows (N, C) are among others (K, C)."""
    # By sorting: whoever sends packets chooses their addresses and ports, and could choose ones that hash tables are
    # slow with.
    among = np.ones(len(rows), np.bool_)
    place, wanted_place = np.zeros(len(rows), np.int64), np.zeros(len(wanted), np.int64)
    for column, wanted_column in zip(rows.T, wanted.T, strict=True):
        values, number = np.unique(wanted_column, return_inverse=True)
        found = np.minimum(np.searchsorted(values, column), len(values) - 1)
        among &= values[found] == column
        # What the columns so far hold is one number again, less than K, so that the next product cannot overflow.
        held, wanted_place = np.unique(wanted_place * len(values) + number, return_inverse=True)
        product = place * len(values) + found
        place = np.minimum(np.searchsorted(held, product), len(held) - 1)
        among &= held[place] == product
    return among


def read_labels(path: Path) -> Labels:
    """Read labels.

    Args:
        path: a CSV of MAWILab, in which an empty field stands for anything; or a list with on each line the address of
            an attacker, ``address,address`` or ``address,port,address,port`` of a flow, in whichever direction. What
            follows a # is not read. UTF-8, or UTF-16 with a byte-order mark; upper and lower case are the same.

    Raises:
        InputFileError: the file is missing, is neither, or names all traffic at once; the message names the line.
    """
    if check_readable(path, InputFileError).stat().st_size > _LARGEST_FILE:
        raise InputFileError(f"{path}: is larger than any list of labels; name another")
    content = path.read_bytes()
    if compressed := describe_compression(content[:LONGEST_MAGIC]):
        raise InputFileError(f"{path}: {compressed}")
    lines = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig", errors="replace").splitlines()
    if "".join(lines[:2]).lstrip().startswith("<"):
        raise InputFileError(f"{path}: is XML, like one of MAWILab's two forms; take MAWILab's CSV of the same day")
    try:
        is_mawilab = bool(lines) and {name.lower() for name in MAWILAB_COLUMNS} <= set(_fields(lines[0].lower()))
        found = list(_mawilab_rules(lines) if is_mawilab else _listed_rules(lines))
    except (ValueError, csv.Error) as problem:
        raise InputFileError(f"{path}: {problem}") from problem
    return Labels([rule for rule in found if rule is not None], found.count(None))


def _mawilab_rules(lines: list[str]) -> Iterator[Rule | None]:
    names = _fields(lines[0].lower())
    places = [names.index(name.lower()) for name in MAWILAB_COLUMNS]
    for number, line in enumerate(lines[1:], 2):
        fields = _fields(line)
        if any(fields):
            if len(fields) < len(names):
                raise ValueError(f"line {number} has {len(fields)} fields, not {len(names)}; mend or drop it")
            *flow, label = (fields[place] for place in places)
            if _is_attack(label, number):
                yield _rule(flow, number)


def _is_attack(label: str, number: int) -> bool:
    """Return whether a label of MAWILab is that of an attack.

    Raises:
        ValueError: it is none of MAWILab's.
    """
    if label.lower() not in (*ATTACK_LABELS, *NORMAL_LABELS):
        said = f"the label {label[:40]!r} is unknown" if label else "the label is empty"
        known = ", ".join((*ATTACK_LABELS, *NORMAL_LABELS))
        raise ValueError(f"line {number}: {said}; mend it (MAWILab's labels are {known}) or drop the line")
    return label.lower() in ATTACK_LABELS


def _listed_rules(lines: list[str]) -> Iterator[Rule | None]:
    for number, line in enumerate(lines, 1):
        match _fields(line.partition("#")[0]):
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
                    f"line {number} is neither an address, address,address nor address,port,address,port; and a CSV of "
                    f"MAWILab begins with a line that names {', '.join(MAWILAB_COLUMNS)}"
                )
        rule = _rule(flow, number)
        yield rule
        if rule is not None:
            yield rule.turned()


def _fields(line: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line]), [])]


def _rule(flow: Iterable[str], number: int) -> Rule | None:
    """Return the rule of source, port, destination and port as text; None where it is about IPv6.

    Raises:
        ValueError: they are no addresses and ports, or all empty.
    """
    source, source_port, destination, destination_port = flow
    try:
        addresses = [ipaddress.ip_address(text) if text else None for text in (source, destination)]
    except ValueError as problem:
        raise ValueError(f"line {number}: {problem}; mend or drop it") from problem
    if any(address is not None and address.version == 6 for address in addresses):
        return None
    a, b = (None if address is None else int(address) for address in addresses)
    rule = Rule(a, _port(source_port, number), b, _port(destination_port, number))
    if rule == (None,) * len(rule):
        raise ValueError(f"line {number} names no address and no port, so all traffic would be an attack; drop it")
    return rule


def _port(text: str, number: int) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError(f"line {number}: {text!r} is no port, 0 to 65535; mend or drop it")
    return int(text)
