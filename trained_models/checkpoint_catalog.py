"""List the seven checkpoints that the authors of the paper published on Google Drive. Standard library only."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One published checkpoint.

    Attributes:
        name: file name without ``.pth``.
        drive_id: file id on Google Drive.
        architecture: class name of the network, as in ``models.ARCHITECTURES``.
        calibrated: whether it has temperatures.
    """

    name: str
    drive_id: str
    architecture: str
    calibrated: bool = False

    @property
    def file_name(self) -> str:
        """Its file name, as published and as saved."""
        return f"{self.name}.pth"


CATALOG: Final = (
    PublishedCheckpoint("AlexNet", "15r9b1HlWU_v6qexesVxTjVnzrDZlmpH8", "AlexNet"),
    PublishedCheckpoint("AlexNet_calibrated", "1uCDKoIx7woGinxInA4xGyMWvcwMpKnA7", "AlexNet", calibrated=True),
    PublishedCheckpoint("AlexNetWithExits", "1ckwMqDlcLWpSqlaUi1eR7nmCY8bEY6L4", "AlexNetWithExits"),
    PublishedCheckpoint(
        "AlexNetWithExits_calibrated",
        "18hXOmjgmYNbYNIrKVVAT9SB9WNdVFUfU",
        "AlexNetWithExits",
        calibrated=True,
    ),
    PublishedCheckpoint("MobileNetV2", "1GCb85UcBNhENtjvXtpYYPNf-f08NLXiN", "MobileNetV2"),
    PublishedCheckpoint("MobileNetV2WithExits", "1eBhCJSr7GWEVlIAHvCFw3j11Vyv3Y38X", "MobileNetV2WithExits"),
    PublishedCheckpoint(
        "MobileNetV2WithExits_calibrated",
        "1thR1A3tI_9jKAhtCjAUY1fymvHx19SuD",
        "MobileNetV2WithExits",
        calibrated=True,
    ),
)


def find_checkpoint(name: str) -> PublishedCheckpoint:
    """Return the checkpoint of that name, with or without ``.pth``, in any case.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    wanted = name.lower().removesuffix(".pth")
    for entry in CATALOG:
        if entry.name.lower() == wanted:
            return entry
    raise ValueError(f"{name!r} is not published. Choose from {', '.join(entry.name for entry in CATALOG)}.")
