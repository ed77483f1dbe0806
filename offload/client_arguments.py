"""Check that the arguments of the edge client agree."""

import argparse

from offload import broker_options, shared_options
from utils import cli
from utils.errors import InputFileError
from utils.files import check_apart, check_distinct, check_table_ending


def check_client_arguments(args: argparse.Namespace) -> None:
    """Check that the arguments of the client agree.

    Raises:
        InputFileError: they contradict each other, or one is missing.
    """
    if not args.process_exit2_locally and not broker_options.has_broker(args):
        raise InputFileError("no --mq-hostname: name the host of RabbitMQ, or add --process-exit2-locally")
    shared_options.check_payload(args)
    _check_files(args)
    exported = cli.is_exported(args, args.trained_network_file)
    if exported and args.second_exit_file is None and _runs_exit_2(args):
        raise InputFileError(
            "an exported network has its exit 2 in a second file; name it with --second-exit-file, or choose "
            "--on-cloud-failure reject or wait"
        )
    if args.resume and (args.savefile is None or args.dataset is None):
        raise InputFileError("--resume needs --savefile and --dataset; name both")
    of_traffic = {"--alerts": args.alerts, "--follow": args.follow, "--duration": args.duration}
    for option, given in of_traffic.items():
        if given and args.dataset:
            raise InputFileError(f"{option} is for traffic; use --pcap or --interface in place of --dataset")


def _check_files(args: argparse.Namespace) -> None:
    read = [args.trained_network_file, args.second_exit_file, args.dataset, args.scaler, *(args.pcap or ())]
    inputs = [path for path in read if path is not None]
    check_distinct((args.savefile, args.alerts))
    for output in (args.savefile, args.alerts):
        if output is not None:
            check_apart(output, inputs)
    if args.savefile is not None:
        check_table_ending(args.savefile)


def _runs_exit_2(args: argparse.Namespace) -> bool:
    return bool(args.process_exit2_locally or args.on_cloud_failure == "local")
