import json
from pathlib import Path

import pytest

from figs.provenance import Provenance, read_provenance, write_provenance
from utils.errors import InputFileError

ABOUT = Provenance("sample", True, "2026-01-02", "2016_01", "2016_02", 8, 64, 1, {"torch": "2"})


def test_a_written_provenance_is_read(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
    write_provenance(ABOUT, tmp_path)
    assert read_provenance(tmp_path) == ABOUT


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "about.json: is damaged"),
        ("[]", "about.json: is damaged"),
        (json.dumps({**vars(ABOUT), "synthetic": "no"}), "synthetic must be true or false"),
        (json.dumps({**vars(ABOUT), "training_month": "May"}), "the months YYYY_MM"),
        (json.dumps({key: value for key, value in vars(ABOUT).items() if key != "synthetic"}), "'synthetic'"),
        ("", "is empty"),
    ],
)
def test_a_damaged_file_is_refused_and_not_treated_as_missing(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "about.json").write_text(content)
    with pytest.raises(InputFileError, match=complaint):
        read_provenance(tmp_path)
