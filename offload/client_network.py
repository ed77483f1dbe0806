"""Open the network of the edge client, and choose its thresholds, as the arguments say.

Both can be of files that the arguments name, or of a release.
"""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from offload import client_options
from offload.operations import logs
from utils import cli
from utils.release import POLICY, Release
from utils.schema import AUTO, DEFAULT_THRESHOLDS

if TYPE_CHECKING:
    from offload.networks.exits import Network
    from utils.policy import Policy
    from utils.schema import Thresholds

log = logging.getLogger(__name__)


def open_network(args: argparse.Namespace, release: "Release | None") -> "tuple[Network, Policy | None]":
    """Open the network, and read the policy, of a release or of the files that the arguments name."""
    from utils.policy import read_policy_for

    network = _open_fastest(args, release)
    return network, read_policy_for(find_policy(args, release), network.fingerprint)


def find_policy(args: argparse.Namespace, release: "Release | None") -> "Path | None":
    """Return the policy file of the release, or of the arguments; None if they name none."""
    policy: Path | None = args.policy if release is None else release.get_path(POLICY)
    return policy


def _open_fastest(args: argparse.Namespace, release: "Release | None") -> "Network":
    from offload.networks.tuning import CHUNKS, find_fastest

    def open_with(threads: int | None, chunk: int) -> "Network":
        if release is not None:
            from offload.networks.release_network import open_release

            exit_2 = client_options.runs_exit_2(args)
            return open_release(release, args.network, threads or 1, chunk, exit_2=exit_2)
        if not cli.is_exported(args, args.trained_network_file):
            from offload.networks.torch_exits import open_checkpoint

            return open_checkpoint(args.trained_network_file, args.network, args.device, threads, chunk)
        from offload.networks.onnx_exits import open_exported

        return open_exported(args.trained_network_file, args.second_exit_file, args.network, threads or 1, chunk)

    cores = sorted({1, len(os.sched_getaffinity(0))})
    threads_to_try = cores if args.threads == AUTO else [args.threads]
    network, threads, chunk = find_fastest(open_with, threads_to_try, CHUNKS if args.chunk == AUTO else [args.chunk])
    if AUTO in (args.threads, args.chunk):
        sentence = f"fastest here: {'' if threads is None else f'--threads {threads} '}--chunk {chunk}"
        logs.report(log, "tuned", sentence, threads=threads, chunk=chunk)
        args.threads, args.chunk = threads, chunk  # a measurement under load, for a later release, would mislead
    return network


def choose_thresholds(
    args: argparse.Namespace, network: "Network", policy: "Policy | None", release: "Release | None"
) -> "Thresholds":
    """Return the thresholds: those that are given, else those of the policy, the network's file, or the defaults."""
    otherwise = policy.thresholds if policy else network.thresholds or DEFAULT_THRESHOLDS
    thresholds = cli.parse_thresholds(args, otherwise)
    source = find_policy(args, release) or (args.trained_network_file if network.thresholds is not None else None)
    if source is not None:
        values = vars(thresholds)
        least = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in values.items())
        origin = f"from {source}{' and the command line' if cli.has_thresholds(args) else ''}"
        logs.report(log, "thresholds", f"thresholds {origin}: {least}", **values)
    return thresholds
