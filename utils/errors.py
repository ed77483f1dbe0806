"""The toolkit's exceptions.

::

    ToolkitError                  exit code 2
    ├── InputFileError            a file or folder that cannot be read, written, or understood
    │   ├── DatasetError          a dataset that breaks the data contract
    │   ├── CaptureError          a file of packets that is none or damaged, or an interface that cannot be captured
    │   │   └── NoInterfaceError  one that is not there, or down (exit code 3)
    │   ├── CheckpointError       a .pth or .onnx file that is damaged, hostile, or of another network
    │   └── ResultFileError       an evaluation CSV or NSGA-II result file that is not one
    ├── DeviceError               a compute device that is not there
    ├── PeerError                 another process of the same run failed, or cannot be reached (exit code 3)
    ├── InfeasibleError           no thresholds satisfy what was asked for
    ├── DownloadError             a file that could not be downloaded whole (exit code 3)
    │   └── UnreachableError      its server cannot be reached (exit code 3)
    └── CloudError                the far side of the edge-cloud link
        ├── MessageError          a message that breaks the protocol
        ├── CloudUnavailableError no broker, no worker, or no answer in time (exit code 3)
        └── BrokerRefusedError    user, password, virtual host or certificate refused (exit code 4)

Every message is one sentence that names the offending thing and the remedy; the scripts print it on
one line and leave with ``exit_code``.
"""


class ToolkitError(Exception):
    """Root of everything this toolkit raises on purpose."""

    exit_code = 2


class InputFileError(ToolkitError):
    """A file or folder that cannot be read, written, or understood."""


class DatasetError(InputFileError):
    """A dataset that breaks the data contract."""


class CaptureError(InputFileError):
    """A file of packets that is none or is damaged, or an interface that cannot be captured."""


class NoInterfaceError(CaptureError):
    """A network interface that is not there, or down: it may come later."""

    exit_code = 3


class CheckpointError(InputFileError):
    """A .pth or .onnx file that is damaged, hostile, or of another network."""


class ResultFileError(InputFileError):
    """An evaluation CSV or NSGA-II result file that is not one."""


class DeviceError(ToolkitError):
    """A compute device that is not there."""


class PeerError(ToolkitError):
    """Another process of the same run failed, or cannot be reached."""

    exit_code = 3


class InfeasibleError(ToolkitError):
    """No thresholds satisfy what was asked for."""


class DownloadError(ToolkitError):
    """A file that could not be downloaded whole."""

    exit_code = 3


class UnreachableError(DownloadError):
    """A server that cannot be reached, so that no other file can be downloaded from it either."""


class CloudError(ToolkitError):
    """The far side of the edge-cloud link failed."""


class MessageError(CloudError):
    """A message that breaks the protocol.

    Args:
        code: one short word for programs and counters, such as ``malformed`` or ``wrong-model``.
        text: what is wrong, for people.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class CloudUnavailableError(CloudError):
    """No broker, no worker, or no answer in time.

    Args:
        text: what is wrong, and the remedy.
        code: one short word for programs and counters, such as ``timed-out`` or ``no-connection``.
    """

    exit_code = 3

    def __init__(self, text: str, code: str = "unavailable") -> None:
        super().__init__(text)
        self.code = code


class BrokerRefusedError(CloudError):
    """The broker refused the user, the password, the virtual host or the certificate."""

    exit_code = 4
