"""Open the network of a release with ONNX Runtime, without PyTorch."""

from models.onnx_runtime import EDGE_PASS_SIZE
from offload.networks.exits import Network
from offload.networks.onnx_exits import open_exported
from utils.errors import ResultFileError
from utils.release import EDGE, MANIFEST, SECOND, Release


def open_release(
    release: Release,
    family: str | None,
    threads: int,
    chunk: int = EDGE_PASS_SIZE,
    most: int | None = None,
    *,
    exit_2: bool = True,
) -> Network:
    """Open the network of a release whose files were checked.

    Args:
        release: the release.
        family: required family of the network, one of ``models.FAMILIES``; None: any.
        threads: threads per pass.
        chunk: largest number of events in a pass of exit 1.
        most: largest number of events in a pass of exit 2; None: as many as are fastest.
        exit_2: whether to open segment 2 and exit 2, which an edge without them leaves to workers.

    Raises:
        CheckpointError: a file is not an exported network, or both are not of one network.
        ResultFileError: the manifest names another network.
    """
    second = release.get_path(SECOND) if exit_2 else None
    network = open_exported(release.get_path(EDGE), second, family, threads, chunk, most)
    if (network.architecture, network.fingerprint) != (release.architecture, release.fingerprint):
        raise ResultFileError(
            f"{release.get_path(EDGE)}: is not the network that {MANIFEST} names; make the release again"
        )
    return network
