#!/usr/bin/env python3
"""Run the whole pipeline on the bundled sample: train, calibrate, evaluate, optimise, chart, infer, offload.

Run:
    python offload/demo.py --output-folder demo-output

Each stage runs a script that users call themselves, and prints its command line. The edge client and the cloud worker
are connected by a private RabbitMQ node; without RabbitMQ the client computes exit 2 itself.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import models
from utils import cli, schema
from utils.errors import CloudUnavailableError
from utils.files import make_folder
from utils.script_runner import run_script

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
OPERATION_POINT = "least-error"
SYNTHETIC = " (synthetic, where it is the bundled sample)"


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--output-folder", type=Path, default=Path("demo-output"), metavar="D", help="(default: %(default)s)")
    add("--dataset-folder", type=Path, default=ROOT / "dataset" / "sample", metavar="D", help="(default: the sample)")
    add(
        "--model",
        type=cli.one_of(models.FAMILIES),
        default="mobilenet",
        metavar="{" + ",".join(models.FAMILIES) + "}",
        help="(default: %(default)s)",
    )
    add("--epochs", type=cli.whole_number(1), default=8, metavar="N", help="(default: %(default)s)")
    add("--min-acceptance", type=cli.real_number(0, 1), default=0.9, metavar="SHARE", help="(default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the pipeline as the arguments say."""
    from nsga2.operating_point import build_front_table, find_named_points, get_thresholds
    from utils.dataset import find_datasets
    from utils.results import read_front

    start = time.monotonic()
    # A new folder for each run, so that it holds only the checkpoint of this run.
    saves = make_folder(args.output_folder / time.strftime("training-%Y%m%d-%H%M%S"))
    output, data = make_folder(args.output_folder), args.dataset_folder
    train, choose, operate = (find_datasets(data, month)[0] for month in ("2016_01", "2016_02", "2016_03"))
    calibrated = output / "calibrated.pth"
    evaluation, front_file = output / "evaluation.csv", output / "front.sav"
    inference, verdicts, page = output / "inference.csv", output / "verdicts.csv", output / "front.html"

    _run_stage(
        f"train both exits on {train.name}", "dnn/train-early-exit-network.py", "--dataset-folder", data,
        "--glob", "2016_01", "--model", args.model, "--epochs", args.epochs, "--keep", 1, "--output-folder", saves,
    )  # fmt: skip
    (trained,) = saves.glob("*.pth")
    _run_stage(
        f"calibrate on {choose.name}", "calibration/Calibrate2exits.py", "--trained-model", trained,
        "--calibrated-model-savefile", calibrated, "--dataset", choose, "--savefolder", output,
    )  # fmt: skip
    _run_stage(
        f"evaluate on {choose.name}", "evaluations/generate-model-evaluation-csv.py", "--trained-model", calibrated,
        "--dataset", choose, "--savefile", evaluation,
    )  # fmt: skip
    _run_stage(
        "search the thresholds", "nsga2/nsga2_2variables.py", "--min-acceptance", args.min_acceptance,
        "--eval-file", evaluation, "--savefile", front_file, "--gen", 300, "--cost-model", "full",
    )  # fmt: skip
    _run_stage(
        "choose the operation point", "nsga2/gen-op-point-chart.py", "--datafile", front_file,
        "--savefile", page, "--operation-point", OPERATION_POINT,
    )  # fmt: skip
    _run_stage(
        f"infer on {operate.name}", "dnn/inference.py", "--trained-model", calibrated, "--dataset", operate,
        "--savefile", inference,
    )  # fmt: skip
    table = build_front_table(read_front(front_file))
    chosen = get_thresholds(table, find_named_points(table)[OPERATION_POINT])
    _offload(args.model, calibrated, operate, chosen, verdicts)
    _print_summary(inference, verdicts, operate.name)
    names = ", ".join(path.name for path in sorted(output.glob("*.*")))
    print(f"\nwritten to {output} in {time.monotonic() - start:.0f} s: {names}")
    _show_page(page)


def _offload(model: str, calibrated: Path, dataset: Path, thresholds: schema.Thresholds, verdicts: Path) -> None:
    from offload.link.private_broker import PrivateBroker

    client = [
        "--dataset", dataset, "--trained-network-file", calibrated, "--network", model, "--batch-size", 200,
        *thresholds.make_options(), "--savefile", verdicts,
    ]  # fmt: skip
    title = f"decide {dataset.name} at the edge"
    try:
        broker = PrivateBroker()
    except CloudUnavailableError as problem:
        print(f"\nno RabbitMQ, so the edge computes exit 2 itself: {problem}")
        _run_stage(title, "offload/ee-processor-client.py", *client, "--process-exit2-locally")
        return
    with broker:
        print("\n== start a cloud worker")
        with broker.run_worker(calibrated, model):
            print(f"\n== {title}, offload the rest")
            run_script("offload/ee-processor-client.py", [*client, *broker.options], broker.environment)


def _run_stage(title: str, script: str, *options: object) -> None:
    print(f"\n== {title}")
    run_script(script, options)


def _print_summary(inference: Path, verdicts: Path, name: str) -> None:
    """Print who decided how many events, and how many of them wrongly."""
    import pandas as pd

    answers = pd.read_csv(inference)
    final = pd.read_csv(verdicts, keep_default_na=False)
    labels, events = final[schema.CLASS], len(final)
    is_rejected = final["final_prediction"] == schema.REJECTED
    is_offloaded = final["exit_2_prediction"].astype(str) != schema.NOT_ASKED
    is_wrong = final["final_prediction"].astype(str) != labels.astype(str)
    by_edge, by_exit_2 = ~is_offloaded, is_offloaded & ~is_rejected
    print(
        f"\n== {events} flows of {name}{SYNTHETIC}: the edge decided "
        f"{100 * by_edge.mean():.0f} % of them by itself and sent {100 * is_offloaded.mean():.0f} % to exit 2"
    )
    print(f"\n{'':44}{'flows':>7}{'decided wrongly':>18}")
    for text, chosen in (("exit 1, on the edge", by_edge), ("exit 2, asked where exit 1 was uncertain", by_exit_2)):
        print(f"{text:44}{chosen.sum():7d}{_format_share(is_wrong[chosen])}")
    print(f"{'rejected: neither exit was certain':44}{is_rejected.sum():7d}{'-':>18}")
    print(f"{'together':44}{events:7d}{_format_share(is_wrong[~is_rejected])}\n\nfor comparison, deciding every flow:")
    for number in (1, 2):
        print(f"{f'exit {number} alone':44}{events:7d}{_format_share(answers[f'exit_{number}_prediction'] != labels)}")


def _format_share(wrong: "pd.Series[bool]") -> str:
    return f"{100 * wrong.mean():15.2f} %" if len(wrong) else f"{'-':>17}"


def _show_page(page: Path) -> None:
    """Open a page in the browser of whoever sits at this terminal, and print where it is."""
    import webbrowser

    has_display = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if sys.stdout.isatty() and has_display:
        webbrowser.open(page.resolve().as_uri())
    print(f"\nAll operating points, to explore in a browser: {page}")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
