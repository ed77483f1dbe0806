"""Read and write policy files: thresholds, the certificate of their error, and the reference for the watch.

A policy file is JSON with these members; fingerprint, certificate and reference may be null:

    format         "early-exit policy"
    version        1
    fingerprint    of the network whose answers were tested, see ``models.checkpoint``
    thresholds     normal_exit_1, attack_exit_1, normal_exit_2, attack_exit_2
    certificate    max_error, confidence: the promise, that with this probability the error of accepted events is at
                   most max_error
                   method, unit: how it was tested, and what was counted as independent: rows
                   rows, accepted, wrong: counts of the tested rows
                   data: SHA-256 of each file of tested rows
    reference      what the traffic looked like, for ``utils.drift_watch``
                   vectors: the frequent ones, 58 features each; score_limits: between the categories of all others
                   shares: of each vector and each category of scores, which add up to 1; rows: that were counted
                   tolerance: largest difference of a share that is no change
                   distrusted: numbers of the vectors, from 0, that are not accepted because their labels are changing
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from utils.errors import ResultFileError
from utils.files import check_readable, compute_digest, replacing
from utils.schema import Thresholds
from utils.traffic_reference import Reference, compute_scores, from_json, to_json

if TYPE_CHECKING:
    from utils.decision import Decisions
    from utils.results import Evaluation

FORMAT: Final = "early-exit policy"
VERSION: Final = 1
UNITS: Final = ("rows",)

_LARGEST_FILE: Final = 4 * 2**20
_REMEDY: Final = "write it with nsga2/certify-thresholds.py"


@dataclass(frozen=True)
class Certificate:
    """A promise about the error of accepted events, and the rows that it was tested on.

    Attributes:
        max_error: limit of wrong / accepted.
        confidence: probability with which the limit holds.
        method: name of the test.
        unit: one of ``UNITS``, what the test counts as independent.
        rows, accepted, wrong: tested rows, those accepted among them, and wrong ones among these.
        data: SHA-256 of each file with tested rows, hexadecimal.
    """

    max_error: float
    confidence: float
    method: str
    unit: str
    rows: int
    accepted: int
    wrong: int
    data: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """How events are decided.

    Attributes:
        thresholds: of both exits.
        fingerprint: of the network that they belong to; None: unknown.
        certificate: None: nothing is promised.
        reference: None: the traffic is not watched.
    """

    thresholds: Thresholds
    fingerprint: str | None = None
    certificate: Certificate | None = None
    reference: Reference | None = None


def compute_digests(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the SHA-256 of each file, hexadecimal."""
    return tuple(compute_digest(path) for path in paths)


def write_policy(policy: Policy, path: Path) -> None:
    """Write a policy file atomically.

    Raises:
        InputFileError: the file cannot be written.
    """
    reference = None if policy.reference is None else to_json(policy.reference)
    content = {"format": FORMAT, "version": VERSION, **asdict(policy), "reference": reference}
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        ResultFileError: the file is missing, damaged, or of a later version, or a value is out of range.
    """
    if check_readable(path, ResultFileError).stat().st_size > _LARGEST_FILE:
        raise ResultFileError(f"{path}: is larger than any policy file; {_REMEDY}")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError
        version = content["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise ResultFileError(f"{path}: is not a policy file; {_REMEDY}") from problem
    if version != VERSION:
        raise ResultFileError(
            f"{path}: is a policy of version {str(version)[:20]}, but this toolkit reads version {VERSION}; update the "
            f"toolkit, or {_REMEDY}"
        )
    try:
        certificate, reference = content["certificate"], content["reference"]
        return Policy(
            Thresholds(**{name: _check_share(value) for name, value in content["thresholds"].items()}),
            None if content["fingerprint"] is None else _check_digest(content["fingerprint"]),
            None if certificate is None else _check_certificate(certificate),
            None if reference is None else from_json(reference),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as problem:
        raise ResultFileError(f"{path}: holds a value that no policy has ({problem}); {_REMEDY}") from problem


def read_policy_for(path: Path | None, fingerprint: str) -> Policy | None:
    """Read the policy file of a network; without a path, return None.

    Raises:
        ResultFileError: as for ``read_policy``, or the policy belongs to another network.
    """
    if path is None:
        return None
    policy = read_policy(path)
    if policy.fingerprint not in {None, fingerprint}:
        raise ResultFileError(
            f"{path}: is the policy of another network ({str(policy.fingerprint)[:8]}…, not {fingerprint[:8]}…); "
            "certify thresholds for this one with nsga2/certify-thresholds.py"
        )
    return policy


def decide_by_policy(policy: Policy, features: NDArray[np.float32], evaluation: "Evaluation") -> "Decisions":
    """Decide rows by the thresholds of a policy, and reject those whose vectors it distrusts.

    Args:
        policy: of the network that answered.
        features: (N, 58) float32 of the rows.
        evaluation: both exits' answers.
    """
    decided = evaluation.decide(policy.thresholds)
    if policy.reference is None or not policy.reference.distrusted:
        return decided
    scores = compute_scores(evaluation.prediction_1, evaluation.certainty_1)
    categories = policy.reference.find_categories(features, scores)
    is_trusted = ~np.isin(categories, policy.reference.distrusted)
    return replace(decided, at_1=decided.at_1 & is_trusted, at_2=decided.at_2 & is_trusted)


def _check_certificate(content: Mapping[str, Any]) -> Certificate:
    expected = {field.name for field in fields(Certificate)}
    if content.keys() != expected:
        raise ValueError(f"the certificate has {', '.join(sorted(content))[:80]}, not {', '.join(sorted(expected))}")
    counts = tuple(content[name] for name in ("wrong", "accepted", "rows"))
    if not all(type(count) is int for count in counts) or not 0 <= counts[0] <= counts[1] <= counts[2]:
        raise ValueError("the counts of the certificate contradict each other")
    if content["unit"] not in UNITS or not isinstance(content["method"], str) or not isinstance(content["data"], list):
        raise ValueError("the certificate names an unknown unit, method or list of data")
    limits = {name: _check_share(content[name]) for name in ("max_error", "confidence")}
    return Certificate(**{**content, **limits, "data": tuple(_check_digest(one) for one in content["data"])})


def _check_share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"{str(value)[:20]!r} is not a number between 0 and 1")
    return float(value)


def _check_digest(value: object) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{str(value)[:20]!r} is not a SHA-256")
    return value
