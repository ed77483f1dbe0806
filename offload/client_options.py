"""Command-line options of the edge client alone, and the check that its arguments agree."""

import argparse
from pathlib import Path

from offload import broker_options, defaults, shared_options
from utils import cli
from utils.errors import InputFileError
from utils.expert_options import add_expert
from utils.files import check_apart, check_distinct, check_table_ending


def add_computing(group: argparse._ActionsContainer) -> None:
    """Add the options of the computation: runtime, second half of an exported network, threads, chunk and cache."""
    cli.add_runtime(group, "to compute exit 2 here (default: only workers compute it)")
    add_expert(
        group,
        "--threads",
        type=cli.or_auto(cli.whole_number(1, 1024)),
        metavar="N",
        meaning="threads per inference; `auto` benchmarks one thread against all cores (1; for a checkpoint all cores)",
    )
    add_expert(
        group,
        "--chunk",
        type=cli.or_auto(cli.whole_number(1, 4096)),
        default=32,
        metavar="N",
        meaning="most events of one pass; `auto` benchmarks several values",
    )
    shared_options.add_cache_size(group)


def add_cloud(parser: argparse.ArgumentParser) -> None:
    """Add the options of requests to the cloud, and of its failure."""
    group = parser.add_argument_group("cloud")
    group.add_argument("--process-exit2-locally", action="store_true", help="compute exit 2 here, without RabbitMQ")
    shared_options.add_payload(group)
    add_expert(
        group,
        "--window",
        type=cli.whole_number(1, 1000),
        default=defaults.WINDOW,
        metavar="N",
        meaning="most requests in flight",
    )
    shared_options.add_request_timeout(group)
    group.add_argument(
        "--on-cloud-failure",
        choices=defaults.FAILURE_POLICIES,
        default=defaults.FAILURE_POLICIES[0],
        help="if the cloud does not answer: compute exit 2 here, reject events, or wait (default: %(default)s)",
    )
    add_expert(
        group,
        "--wait-timeout",
        type=cli.real_number(0.1, 1e7),
        default=defaults.WAIT_TIMEOUT,
        metavar="S",
        meaning="seconds after which `--on-cloud-failure wait` gives up",
    )
    add_expert(
        group,
        "--drain-timeout",
        type=cli.real_number(0, 86400),
        default=defaults.DRAIN_TIMEOUT,
        metavar="S",
        meaning="seconds to wait for replies after SIGTERM",
    )


def add_drift(group: argparse._ActionsContainer) -> None:
    """Add the option for what happens when the traffic has changed."""
    add_expert(
        group,
        "--on-drift",
        type=cli.one_of(defaults.DRIFT_RESPONSES),
        default=defaults.WARN,
        metavar="{" + ",".join(defaults.DRIFT_RESPONSES) + "}",
        meaning="if the traffic no longer looks like the reference of `--policy`: log it, `tighten` (no longer accept "
        "what has become more frequent), or `reject` all events",
    )


def add_alerts(group: argparse._ActionsContainer) -> None:
    """Add the options of alerts on traffic."""
    group.add_argument(
        "--alerts", type=Path, metavar="FILE", help="append alerts to this file as Suricata EVE JSON; - is stdout"
    )
    add_expert(
        group,
        "--max-rejected-alerts",
        type=cli.whole_number(0, 1_000_000),
        default=defaults.MAX_REJECTED_ALERTS,
        metavar="N",
        meaning="most alerts on rejected records in each window of 15 s; others are only counted",
    )
    add_expert(
        group,
        "--max-alerts-per-source",
        type=cli.whole_number(0, 1_000_000),
        default=defaults.MAX_ALERTS_PER_SOURCE,
        metavar="N",
        meaning="most alerts of each signature in a window for one source address; for all addresses "
        f"{defaults.ALL_SOURCES_FACTOR} times as many; 0: no limit",
    )


def check_client_arguments(args: argparse.Namespace) -> None:
    """Check that the arguments of the client agree.

    Raises:
        InputFileError: they contradict each other, or one is missing.
    """
    if not args.process_exit2_locally and not broker_options.has_broker(args):
        raise InputFileError("no --mq-hostname: name the host of RabbitMQ, or add --process-exit2-locally")
    shared_options.check_payload(args)
    _check_files(args)
    shared_options.check_release(args, "--policy", "--runtime")
    exported = args.release is None and cli.is_exported(args, args.trained_network_file)
    if exported and args.second_exit_file is None and runs_exit_2(args):
        raise InputFileError(
            "an exported network has its exit 2 in a second file; name it with --second-exit-file, or choose "
            "--on-cloud-failure reject or wait"
        )
    if args.resume and (args.savefile is None or args.dataset is None):
        raise InputFileError("--resume needs --savefile and --dataset; name both")
    if args.on_drift != defaults.WARN and args.policy is None and args.release is None:
        raise InputFileError(f"--on-drift {args.on_drift} needs --policy, which says what the traffic looked like")
    if args.on_drift != defaults.WARN and args.resume:
        raise InputFileError(f"--resume cannot continue with --on-drift {args.on_drift}; decide all rows anew, or warn")
    of_traffic = {"--alerts": args.alerts, "--follow": args.follow, "--duration": args.duration}
    for option, given in of_traffic.items():
        if given and args.dataset:
            raise InputFileError(f"{option} is for traffic; use --pcap or --interface in place of --dataset")


def _check_files(args: argparse.Namespace) -> None:
    files = (args.trained_network_file, args.second_exit_file, args.dataset, args.scaler, args.policy)
    inputs = [path for path in (*files, *(args.pcap or ())) if path is not None]
    check_distinct((args.savefile, args.alerts))
    for output in (args.savefile, args.alerts):
        if output is not None:
            check_apart(output, inputs)
    if args.savefile is not None:
        check_table_ending(args.savefile)


def runs_exit_2(args: argparse.Namespace) -> bool:
    """Return whether the client computes exit 2 itself, always or when the cloud fails."""
    return bool(args.process_exit2_locally or args.on_cloud_failure == "local")
