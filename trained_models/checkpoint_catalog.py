"""List the seven checkpoints that the authors of the paper published on Google Drive.

This module imports only the standard library.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint.

    Attributes:
        name: file name without ``.pth``: the network's class name, with ``_calibrated`` if it has temperatures.
        drive_id: file id on Google Drive.
    """

    name: str
    drive_id: str

    @property
    def file_name(self) -> str:
        """The file name, as published and as saved."""
        return f"{self.name}.pth"


CATALOG: Final = (
    PublishedCheckpoint("AlexNet", "15r9b1HlWU_v6qexesVxTjVnzrDZlmpH8"),
    PublishedCheckpoint("AlexNet_calibrated", "1uCDKoIx7woGinxInA4xGyMWvcwMpKnA7"),
    PublishedCheckpoint("AlexNetWithExits", "1ckwMqDlcLWpSqlaUi1eR7nmCY8bEY6L4"),
    PublishedCheckpoint("AlexNetWithExits_calibrated", "18hXOmjgmYNbYNIrKVVAT9SB9WNdVFUfU"),
    PublishedCheckpoint("MobileNetV2", "1GCb85UcBNhENtjvXtpYYPNf-f08NLXiN"),
    PublishedCheckpoint("MobileNetV2WithExits", "1eBhCJSr7GWEVlIAHvCFw3j11Vyv3Y38X"),
    PublishedCheckpoint("MobileNetV2WithExits_calibrated", "1thR1A3tI_9jKAhtCjAUY1fymvHx19SuD"),
)


def find_checkpoint(name: str) -> PublishedCheckpoint:
    """Return the published checkpoint with a given name, with or without ``.pth``, in upper or lower case.

    Raises:
        ValueError: no published checkpoint has this name; the message lists the names.
    """
    wanted = name.lower().removesuffix(".pth")
    for entry in CATALOG:
        if entry.name.lower() == wanted:
            return entry
    raise ValueError(f"{name!r} is not published. Choose from {', '.join(entry.name for entry in CATALOG)}.")
