"""The seven checkpoints that the authors of the paper published on Google Drive. Standard library only."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Attributes:
        name: its file name without ``.pth``.
        drive_id: its file id on Google Drive.
        architecture: the network in it, as in ``models.ARCHITECTURES``.
        calibrated: whether it carries temperatures.
    """

    name: str
    drive_id: str
    architecture: str
    calibrated: bool = False

    @property
    def file_name(self) -> str:
        """The name under which it is published and saved."""
        return f"{self.name}.pth"


CATALOG: Final = (
    Published("AlexNet", "15r9b1HlWU_v6qexesVxTjVnzrDZlmpH8", "AlexNet"),
    Published("AlexNet_calibrated", "1uCDKoIx7woGinxInA4xGyMWvcwMpKnA7", "AlexNet", calibrated=True),
    Published("AlexNetWithExits", "1ckwMqDlcLWpSqlaUi1eR7nmCY8bEY6L4", "AlexNetWithExits"),
    Published(
        "AlexNetWithExits_calibrated",
        "18hXOmjgmYNbYNIrKVVAT9SB9WNdVFUfU",
        "AlexNetWithExits",
        calibrated=True,
    ),
    Published("MobileNetV2", "1GCb85UcBNhENtjvXtpYYPNf-f08NLXiN", "MobileNetV2"),
    Published("MobileNetV2WithExits", "1eBhCJSr7GWEVlIAHvCFw3j11Vyv3Y38X", "MobileNetV2WithExits"),
    Published(
        "MobileNetV2WithExits_calibrated",
        "1thR1A3tI_9jKAhtCjAUY1fymvHx19SuD",
        "MobileNetV2WithExits",
        calibrated=True,
    ),
)


def find(name: str) -> Published:
    """Return the checkpoint of that name, with or without ``.pth``, in any case.

    Raises:
        ValueError: there is none; the message lists what there is.
    """
    wanted = name.lower().removesuffix(".pth")
    for entry in CATALOG:
        if entry.name.lower() == wanted:
            return entry
    raise ValueError(f"{name!r} is not published; choose from {', '.join(entry.name for entry in CATALOG)}")
