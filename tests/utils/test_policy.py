import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.errors import ResultFileError
from utils.policy import Certificate, Policy, compute_digests, read_policy, write_policy
from utils.schema import FEATURE_COUNT, Thresholds
from utils.traffic_reference import make_reference, to_json

CERTIFICATE = Certificate(0.08, 0.95, "a method", "rows", 3250, 3000, 200, ("0f" * 32, "ab" * 32))
ONES = np.ones((50, FEATURE_COUNT), dtype=np.float32)
REFERENCE = make_reference(ONES, np.linspace(0, 1, 50), 0.08)
POLICY = Policy(Thresholds(0.9, 0.8, 0.7, 0.6), "5e" * 32, CERTIFICATE, REFERENCE)


def changed(**changes: Any) -> dict[str, Any]:
    """Return the content of a policy file whose members, or members of members by ``a__b``, are changed."""
    content: dict[str, Any] = json.loads(json.dumps(_content()))
    for name, value in changes.items():
        outer, _, inner = name.partition("__")
        if inner:
            content[outer][inner] = value
        else:
            content[outer] = value
    return content


def _content() -> dict[str, Any]:
    certificate = {**vars(CERTIFICATE), "data": list(CERTIFICATE.data)}
    of_policy = {"thresholds": vars(POLICY.thresholds), "fingerprint": POLICY.fingerprint, "certificate": certificate}
    return {"format": "early-exit policy", "version": 1, **of_policy, "reference": to_json(REFERENCE)}


@pytest.mark.parametrize("policy", [POLICY, Policy(POLICY.thresholds)])
def test_a_policy_is_read_as_it_was_written(policy: Policy, tmp_path: Path) -> None:
    write_policy(policy, tmp_path / "policy.json")
    found = read_policy(tmp_path / "policy.json")
    assert replace(found, reference=None) == replace(policy, reference=None)
    if policy.reference is None:
        assert found.reference is None
    else:
        assert found.reference is not None and to_json(found.reference) == to_json(policy.reference)


def test_the_file_has_the_documented_form(tmp_path: Path) -> None:
    write_policy(POLICY, tmp_path / "policy.json")
    assert json.loads((tmp_path / "policy.json").read_text()) == _content()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (changed(version=2), "is a policy of version 2, but this toolkit reads version 1; update the toolkit"),
        (changed(format="front"), "is not a policy file; write it with nsga2/certify-thresholds.py"),
        ([], "is not a policy file"),
        ("policy", "is not a policy file"),
        ({}, "is not a policy file"),
        (changed(thresholds={}), "holds a value that no policy has"),
        (changed(thresholds__normal_exit_1=1.5), "'1.5' is not a number between 0 and 1"),
        (changed(thresholds__normal_exit_1=True), "'True' is not a number between 0 and 1"),
        (changed(thresholds__normal_exit_1=float("nan")), "'nan' is not a number between 0 and 1"),
        (changed(thresholds__third_exit=0.5), "third_exit"),
        (changed(thresholds=[0.5] * 4), "holds a value that no policy has"),
        (changed(fingerprint="5e"), "'5e' is not a SHA-256"),
        (changed(fingerprint=5), "'5' is not a SHA-256"),
        (changed(certificate=[]), "holds a value that no policy has"),
        (changed(certificate__max_error="8 %"), "'8 %' is not a number between 0 and 1"),
        (changed(certificate__confidence=95), "'95' is not a number between 0 and 1"),
        (changed(certificate__rows=10), "the counts of the certificate contradict each other"),
        (changed(certificate__wrong=-1), "the counts of the certificate contradict each other"),
        (changed(certificate__accepted=2.5), "the counts of the certificate contradict each other"),
        (changed(certificate__unit="days"), "unknown unit"),
        (changed(certificate__data="ab"), "list of data"),
        (changed(certificate__data=["ab"]), "'ab' is not a SHA-256"),
        (changed(certificate__more=1), "the certificate has "),
        (changed(reference__shares=[0.5, 0.3, 0.2]), "shares of other categories"),
        (changed(reference={}), "holds a value that no policy has"),
        (changed(reference=1), "holds a value that no policy has"),
    ],
)  # fmt: skip
def test_a_damaged_policy_is_refused_in_one_line(content: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ResultFileError) as info:
        read_policy(path)
    assert says in str(info.value) and str(path) in str(info.value) and "\n" not in str(info.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'])
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_bytes(content)
    with pytest.raises(ResultFileError, match="is not a policy file"):
        read_policy(tmp_path / "policy.json")


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="no such file"):
        read_policy(tmp_path / "policy.json")
    (tmp_path / "policy.json").write_bytes(bytes(5 * 2**20))
    with pytest.raises(ResultFileError, match="is larger than any policy file"):
        read_policy(tmp_path / "policy.json")


def test_files_are_known_by_their_sha_256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert compute_digests([tmp_path / "a"]) == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",)
