"""Define the exceptions of the toolkit.

::

    ToolkitError                  exit code 2
    ├── InputFileError            a file or folder that cannot be read, written, or understood
    │   ├── DatasetError          a dataset with wrong columns, cells or labels
    │   ├── CaptureError          a damaged capture file, or an interface that cannot be captured
    │   │   └── NoInterfaceError  an interface that does not exist or is down (exit code 3)
    │   ├── CheckpointError       a .pth or .onnx file that is damaged, hostile, or of another network
    │   └── ResultFileError       not a valid evaluation CSV or NSGA-II result file
    ├── DeviceError               a compute device that does not exist, or cannot do what is asked
    ├── PeerError                 another process of the same run failed, or cannot be reached (exit code 3)
    ├── InfeasibleError           no thresholds satisfy the constraints
    ├── DownloadError             a file that could not be downloaded whole (exit code 3)
    │   └── UnreachableError      a server that cannot be reached (exit code 3)
    └── CloudError                a failure of the broker or the worker
        ├── MessageError          a message that breaks the protocol
        ├── CloudUnavailableError no broker, no worker, or no reply in time (exit code 3)
        └── BrokerRefusedError    user, password, virtual host or certificate refused (exit code 4)

A message begins with the file, option or address that it is about, if there is one. It says what is wrong and where
and, after a semicolon or in a second sentence, what to do, unless that is obvious. A ``MessageError`` begins with its
code. A script prints the message on one line and exits with ``exit_code``.
"""


class ToolkitError(Exception):
    """Base class of all errors that the toolkit raises deliberately."""

    exit_code = 2


class InputFileError(ToolkitError):
    """A file or folder that cannot be read, written, or understood."""


class DatasetError(InputFileError):
    """A dataset that is damaged, or has wrong columns, cells or labels."""


class CaptureError(InputFileError):
    """A file that is no capture or is damaged, or an interface that cannot be captured."""


class NoInterfaceError(CaptureError):
    """A network interface that does not exist or is down; it may come up later."""

    exit_code = 3


class CheckpointError(InputFileError):
    """A .pth or .onnx file that is damaged, hostile, or of another network."""


class ResultFileError(InputFileError):
    """A file that is not a valid evaluation CSV or NSGA-II result file."""


class DeviceError(ToolkitError):
    """A compute device that does not exist, or cannot do what is asked."""


class PeerError(ToolkitError):
    """Another process of the same run failed, or cannot be reached."""

    exit_code = 3


class InfeasibleError(ToolkitError):
    """No thresholds satisfy the constraints."""


class DownloadError(ToolkitError):
    """A file that could not be downloaded whole."""

    exit_code = 3


class UnreachableError(DownloadError):
    """A server that cannot be reached, so that no other file can be downloaded from it either."""


class CloudError(ToolkitError):
    """A failure of the broker or the worker, or of the connection to them."""


class MessageError(CloudError):
    """A message that breaks the protocol.

    Args:
        code: short code for programs and counters, such as ``malformed`` or ``wrong-model``.
        text: what is wrong, for the user.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class CloudUnavailableError(CloudError):
    """No broker, no worker, or no reply in time.

    Args:
        text: what is wrong, and what to do.
        code: short code for programs and counters, such as ``timed-out`` or ``no-connection``.
    """

    exit_code = 3

    def __init__(self, text: str, code: str = "unavailable") -> None:
        super().__init__(text)
        self.code = code


class BrokerRefusedError(CloudError):
    """The broker refused the user, the password, the virtual host or the certificate."""

    exit_code = 4
