"""Labels of flow records: which of them a list of anomalies, addresses or flows calls attacks.

Sources: MAWILab's CSV files (http://www.fukuda-lab.org/mawilab/documentation.html), by the packet that a record begins
with, as the published dataset was labelled; or plain lists.
"""

import csv
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.errors import InputFileError
from utils.files import check_readable
from utils.records import Records
from utils.schema import ATTACK, NORMAL

MAWILAB_COLUMNS: Final = ("srcIP", "srcPort", "dstIP", "dstPort", "label")
ATTACK_LABELS: Final = ("anomalous", "suspicious")
"""Of MAWILab's labels; notice and benign traffic is normal."""

_LARGEST_FILE: Final = 64 * 2**20
_WITH_PORTS: Final = (6, 17, 132)  # TCP, UDP, SCTP
_NO_PORT: Final = np.int64(-1)


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
        columns = (records.address_a, port_a, records.address_b, port_b)
        packets = pd.DataFrame(dict(zip(Rule._fields, columns, strict=True)), dtype=np.int64)
        attack = np.zeros(len(records), np.bool_)
        for names, rules in self._by_what_they_name():
            fits = packets[names].merge(rules, how="left", on=names, indicator=True)["_merge"] == "both"
            attack |= fits.to_numpy()
        return np.where(attack, ATTACK, NORMAL)

    def _by_what_they_name(self) -> Iterator[tuple[list[str], pd.DataFrame]]:
        """Yield the fields that some rules name, and what these rules say of them, each once."""
        table = pd.DataFrame(self.rules, columns=list(Rule._fields), dtype="Int64")
        for named, rules in table.groupby([table[name].notna() for name in Rule._fields]):
            columns = [name for name, is_named in zip(Rule._fields, named, strict=True) if is_named]
            yield columns, rules[columns].astype(np.int64).drop_duplicates()


def read_labels(path: Path) -> Labels:
    """Read labels.

    Args:
        path: a CSV of MAWILab, in which an empty field stands for anything; or a list with on each line the address of
            an attacker, ``address,address`` or ``address,port,address,port`` of a flow, in whichever direction. What
            follows a # is not read.

    Raises:
        InputFileError: the file is missing, is neither, or names all traffic at once; the message names the line.
    """
    if check_readable(path, InputFileError).stat().st_size > _LARGEST_FILE:
        raise InputFileError(f"{path}: is larger than any list of labels")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        is_mawilab = bool(lines) and set(MAWILAB_COLUMNS) <= set(_fields(lines[0]))
        found = list(_mawilab_rules(lines) if is_mawilab else _listed_rules(lines))
    except (ValueError, csv.Error) as problem:
        raise InputFileError(f"{path}: {problem}") from problem
    return Labels([rule for rule in found if rule is not None], found.count(None))


def _mawilab_rules(lines: list[str]) -> Iterator[Rule | None]:
    names = _fields(lines[0])
    places = [names.index(name) for name in MAWILAB_COLUMNS]
    for number, line in enumerate(lines[1:], 2):
        fields = _fields(line)
        if any(fields):
            if len(fields) < len(names):
                raise ValueError(f"line {number} has {len(fields)} fields, not {len(names)}; mend or drop it")
            *flow, label = (fields[place] for place in places)
            if label in ATTACK_LABELS:
                yield _rule(flow, number)


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
