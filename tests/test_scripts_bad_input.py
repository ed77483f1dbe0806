"""Every script, given every bad file and number: one line that names it, exit code 2, and nothing changed on disk."""

import argparse
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch

from models.checkpoint import read_two_exits
from models.onnx_export import write_edge_model
from tests.bad_files import (
    ALERTS,
    AUTHORITIES,
    BROKER_FILES,
    CAPTURES,
    CERTIFICATES,
    CHECKPOINTS,
    DATASET_FOLDERS,
    DATASETS,
    EVALUATIONS,
    EXPORTED,
    FRONTS,
    INPUT_FOLDERS,
    INTERVALS,
    LABEL_LISTS,
    LABELS,
    METER_LOGS,
    OUTPUT_FOLDERS,
    OUTPUTS,
    PASSWORDS,
    PICTURES,
    POLICIES,
    RELEASES,
    ROWS,
    SCALERS,
    SINGLE_EVALUATIONS,
    SINGLE_EXIT,
    TABLES,
    TIMINGS,
    UNLABELLED,
    VERDICTS,
    Fault,
    files_below,
    good_evaluation,
    good_front,
    good_single_evaluation,
    good_weights,
    month,
    write_cells,
)
from tests.dataset.packets.test_captures import FRAMES, pcap
from tests.scripts import (
    CALIBRATE,
    CERTIFY,
    CHART,
    CHOOSE,
    CLIENT,
    DEMO,
    DEMO_LIVE,
    DEMO_YEAR,
    ENERGY,
    EVALUATE,
    EXPORT,
    EXTRACT,
    FETCH_DATASET,
    FETCH_MODELS,
    FETCH_RESULTS,
    GENERATOR,
    INFER,
    MAKE_RESULTS,
    MAKE_SAMPLE,
    RENEW,
    REPRODUCE,
    ROOT,
    SCRIPTS,
    SEARCH,
    SERVER,
    TRAIN,
    YEAR,
    call,
    flat,
    load_script,
)
from utils.dataset import read_dataset
from utils.results import write_front
from utils.schema import INFERENCE_COLUMNS

pytestmark = pytest.mark.slow

Faults = Mapping[str, Fault]
LABELLED: Faults = {**DATASETS, **UNLABELLED}
TWO_EXITS: Faults = {**CHECKPOINTS, **SINGLE_EXIT}
BROKER: dict[str, Faults] = {
    "--mq-config": BROKER_FILES,
    "--mq-password-file": PASSWORDS,
    "--mq-ca-file": AUTHORITIES,
    "--mq-certificate-file": CERTIFICATES,
    "--mq-key-file": CERTIFICATES,
}
PATHS: dict[str, dict[str, Faults]] = {
    TRAIN: {"--dataset-folder": DATASET_FOLDERS, "--output-folder": OUTPUT_FOLDERS},
    RENEW: {
        "--champion": {
            name: fault for name, fault in TWO_EXITS.items() if name not in {"of another network", "a folder"}
        },
        "--dataset-folder": DATASET_FOLDERS,
        "--labelled": LABELLED,
        "--output-folder": OUTPUT_FOLDERS,
    },
    CALIBRATE: {
        "--trained-model": TWO_EXITS,
        "--dataset": LABELLED,
        "--calibrated-model-savefile": OUTPUTS,
        "--savefolder": OUTPUT_FOLDERS,
    },
    EVALUATE: {"--trained-model": CHECKPOINTS, "--dataset": LABELLED, "--savefile": TABLES},
    CHOOSE: {"--verdicts": VERDICTS, "--savefile": TABLES},
    YEAR: {
        "--trained-model": TWO_EXITS,
        "--dataset-folder": DATASET_FOLDERS,
        "--single-exit": CHECKPOINTS,
        "--offload-timings": TIMINGS,
        "--output": OUTPUT_FOLDERS,
    },
    ENERGY: {
        "--trained-model": TWO_EXITS,
        "--single-exit": CHECKPOINTS,
        "--edge-model": EXPORTED,
        "--dataset": DATASETS,
        "--policy": POLICIES,
        "--meter-csv": METER_LOGS,
        "--intervals": INTERVALS,
        "--savefile": TABLES,
        "--picture": PICTURES,
        **BROKER,
    },
    SEARCH: {"--eval-file": EVALUATIONS, "--offload-timings": TIMINGS, "--savefile": OUTPUTS},
    CERTIFY: {
        "--eval-file": EVALUATIONS,
        "--labels": LABEL_LISTS,
        "--propose-from": EVALUATIONS,
        "--dataset": DATASETS,
        "--earlier-dataset": LABELLED,
        "--trained-model": {name: fault for name, fault in TWO_EXITS.items() if name != "of another network"},
        "--offload-timings": TIMINGS,
        "--savefile": OUTPUTS,
        "--report": PICTURES,
    },
    CHART: {
        "--datafile": FRONTS,
        "--eval-file": EVALUATIONS,
        "--evaluate": EVALUATIONS,
        "--single-exit": SINGLE_EVALUATIONS,
        "--offload-timings": TIMINGS,
        "--savefile": OUTPUTS,
        "--evaluation-savefile": TABLES,
    },
    INFER: {
        "--trained-model": TWO_EXITS,
        "--second-exit-file": EXPORTED,
        "--dataset": DATASETS,
        "--savefile": TABLES,
    },
    EXPORT: {
        "--trained-model": TWO_EXITS,
        "--dataset": DATASETS,
        "--policy": POLICIES,
        "--output": OUTPUTS,
        "--second-exit-output": OUTPUTS,
    },
    SERVER: {
        "--trained-network-file": TWO_EXITS,
        "--release": RELEASES,
        "--second-exit-file": EXPORTED,
        **BROKER,
    },
    CLIENT: {
        "--trained-network-file": TWO_EXITS,
        "--release": RELEASES,
        "--second-exit-file": EXPORTED,
        "--dataset": DATASETS,
        "--pcap": CAPTURES,
        "--scaler": SCALERS,
        "--policy": POLICIES,
        "--alerts": ALERTS,
        "--savefile": TABLES,
        **BROKER,
    },
    GENERATOR: {
        "--trained-network-file": TWO_EXITS,
        "--dataset": DATASETS,
        "--savefile": TABLES,
        "--picture": PICTURES,
        **BROKER,
    },
    REPRODUCE: {
        "--results": {name: fault for name, fault in INPUT_FOLDERS.items() if "month" not in name},
        "--output": OUTPUT_FOLDERS,
    },
    MAKE_RESULTS: {"--dataset-folder": INPUT_FOLDERS, "--output": OUTPUT_FOLDERS},
    DEMO_YEAR: {"--output-folder": OUTPUT_FOLDERS},
    DEMO: {"--dataset-folder": INPUT_FOLDERS, "--output-folder": OUTPUT_FOLDERS},
    DEMO_LIVE: {"--capture": CAPTURES, "--output-folder": OUTPUT_FOLDERS},
    EXTRACT: {
        "--pcap": CAPTURES,
        "--labels": LABELS,
        "--scaler": SCALERS,
        "--fit-scaler": OUTPUTS,
        "--output": TABLES,
    },
    MAKE_SAMPLE: {"--output-folder": OUTPUT_FOLDERS},
    FETCH_DATASET: {"--output-folder": OUTPUT_FOLDERS},
    FETCH_RESULTS: {"--output-folder": OUTPUT_FOLDERS},
    FETCH_MODELS: {"--output-folder": OUTPUT_FOLDERS},
}
CASES = [
    pytest.param(script, option, fault, id=f"{Path(script).stem} {option} {name}")
    for script, options in PATHS.items()
    for option, faults in options.items()
    for name, fault in faults.items()
]
NOWHERE = "http://127.0.0.1:1"

PORTS: dict[str, tuple[str, ...]] = {"--mq-port": ("0", "65536", "-1"), "--metrics-port": ("0", "65536", "-1")}
TIMES: dict[str, tuple[str, ...]] = {"--request-timeout": ("0", "nan", "inf"), "--retries": ("-1", "101", "1.5")}
THRESHOLDS: dict[str, tuple[str, ...]] = {
    "--normal-exit1-min-certainty": ("-0.1", "1.1", "nan"),
    "--attack-exit1-min-certainty": ("-0.1", "1.1", "inf"),
    "--normal-exit2-min-certainty": ("-1", "95"),
    "--attack-exit2-min-certainty": ("-1", "98"),
}
# Options that take a number, and what is out of their range.
NUMBERS: dict[str, dict[str, tuple[str, ...]]] = {
    TRAIN: {
        "--batch_size": ("0", "-5", "1.5"),
        "--epochs": ("0", "1e3"),
        "--validation-split": ("0", "1", "nan", "-0.1"),
        "--learning-rate": ("0", "1", "inf"),
        "--keep": ("0", "-1"),
        "--seed": ("-1", "4294967296"),
    },
    RENEW: {
        "--epochs": ("0", "1e3"),
        "--hold-back": ("39", "1e3"),
        "--min-acceptance": ("-0.01", "1.01", "nan"),
        "--reject-cost": ("-0.01", "1.01", "nan"),
        "--seed": ("-1", "4294967296"),
    },
    CALIBRATE: {"--batch-size": ("0",), "--max-iter": ("0", "-1"), "--epochs": ("0",)},
    EVALUATE: {"--batch-size": ("0", "")},
    CHOOSE: {
        "--count": ("0", "-1", "1.5"),
        "--random-share": ("-0.1", "1.1", "nan"),
        "--seed": ("-1", "4294967296", "0.5"),
    },
    YEAR: {
        "--min-acceptance": ("-0.01", "1.01", "nan"),
        "--bootstrap": ("0", "99", "1e3"),
        "--labels-per-month": ("19", "1e3"),
        "--max-error": ("0", "1", "nan"),
        "--cost-per-offload": ("-1", "nan", "inf"),
        "--seed": ("-1", "4294967296", "0.5"),
    },
    ENERGY: {
        "--mq-port": PORTS["--mq-port"],
        "--batch-size": ("0",),
        **THRESHOLDS,
        "--watts": ("0", "nan", "inf", "-1"),
        "--rounds": ("0", "1001"),
        "--seconds": ("-1", "nan", "inf"),
        "--idle-seconds": ("-1", "nan", "inf"),
    },
    SEARCH: {
        "--min-acceptance": ("-0.01", "1.01", "nan", "inf"),
        "--offspring": ("0", "1000000000"),
        "--gen": ("0", "-3"),
        "--population": ("1", "1000000000"),
        "--stall": ("0",),
        "--choices": ("1", "100001"),
        "--cost-per-offload": ("-1", "nan", "inf"),
        "--seed": ("-1", "4294967296", "0.5"),
    },
    CERTIFY: {
        "--max-error": ("0", "1", "nan"),
        "--confidence": ("0.5", "1", "95", "nan"),
        "--min-acceptance": ("-0.01", "1.01", "nan"),
        "--tolerance": ("0", "0.5", "nan"),
        "--cost-per-offload": ("-1", "nan", "inf"),
        "--seed": ("-1", "4294967296", "0.5"),
    },
    CHART: {
        "--operation-point": ("-1", "2.5", "nan"),
        "--max-error": ("-0.1", "1.1", "nan"),
        "--max-time": ("-1", "nan", "inf"),
        "--max-offload": ("-0.1", "1.1", "nan"),
        "--cost-per-offload": ("-1", "nan", "inf"),
    },
    INFER: {"--batch-size": ("0",)},
    EXPORT: THRESHOLDS,
    SERVER: {
        **PORTS,
        "--max-batch": ("0", "4097"),
        "--batch-wait-ms": ("-1", "1001", "nan"),
        "--prefetch": ("0", "1001"),
        "--cache-size": ("-1", "10000001"),
        "--threads": ("0", "auto"),
    },
    CLIENT: {
        **PORTS,
        **TIMES,
        "--batch-size": ("0",),
        "--window": ("0", "1001"),
        "--wait-timeout": ("0", "nan", "inf"),
        "--drain-timeout": ("-1", "nan"),
        "--cache-size": ("-1", "10000001"),
        "--threads": ("0", "1025", "all"),
        "--chunk": ("0", "4097", "auto2"),
        **THRESHOLDS,
        "--duration": ("0", "nan", "inf"),
        "--max-records": ("0", "10000001"),
        "--max-rejected-alerts": ("-1", "1.5"),
        "--max-alerts-per-source": ("-1", "1.5"),
    },
    GENERATOR: {
        **PORTS,
        **TIMES,
        "--clients": ("0", "257"),
        "--batch-size": ("0", "1025"),
        "--interval": ("-1", "nan", "inf"),
        "--count": ("0",),
    },
    REPRODUCE: {"--operation-point": ("-1", "2.5", "nan"), "--watts": ("0", "nan", "inf", "-1")},
    MAKE_RESULTS: {"--epochs": ("0",), "--batch-size": ("0", "1.5"), "--seed": ("-1", "4294967296")},
    DEMO_LIVE: {"--epochs": ("0",)},
    DEMO_YEAR: {"--epochs": ("0",), "--rows": ("299", "1e3")},
    DEMO: {"--epochs": ("0",), "--min-acceptance": ("1.5", "nan")},
    EXTRACT: {"--duration": ("0", "nan", "inf"), "--max-records": ("0", "10000001")},
    MAKE_SAMPLE: {"--rows": ("0", "100001"), "--months": ("0", "13"), "--seed": ("-1",)},
}
NOT_ADDRESSES = ("", "a.example", "file:///etc", "https://", "http://[", "http://a b", "http://a?b", "http://a#b")
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    TRAIN: {"--model": ("resnet", "")},
    CALIBRATE: {"--model": ("AlexNetWithExits",), "--method": ("guess",)},
    EVALUATE: {"--model": ("resnet",), "--clock": ("sun",), "--runtime": ("jax", "")},
    YEAR: {
        "--model": ("resnet",),
        "--operation-point": ("5",),
        "--policy": ("hope", ""),
        "--resample": ("months",),
        "--cost-model": ("free",),
        "--offload-where": ("network", "=AlexNet", ""),
    },
    ENERGY: {"--meter": ("sundial", "")},
    SEARCH: {"--cost-model": ("free",), "--solver": ("guess",), "--offload-where": ("network", "=AlexNet", "")},
    CERTIFY: {"--cost-model": ("free",), "--offload-where": ("network", "=AlexNet", "")},
    CHART: {"--cost-model": ("free",), "--offload-where": ("network", "=AlexNet", "")},
    INFER: {"--model": ("resnet",), "--runtime": ("jax",), "--quantize": ("int4",)},
    EXPORT: {"--model": ("resnet",), "--quantize": ("int4",)},
    SERVER: {
        "--network": ("resnet", ""),
        "--queue-type": ("stream",),
        "--log-format": ("xml",),
        "--quantize": ("int4",),
    },
    CLIENT: {
        "--network": ("resnet",),
        "--payload": ("pickle",),
        "--on-cloud-failure": ("panic",),
        "--on-drift": ("panic", ""),
        "--log-format": ("",),
        "--runtime": ("jax", ""),
    },
    GENERATOR: {"--network": ("resnet",), "--payload": ("pickle",), "--log-format": ("xml",)},
    REPRODUCE: {"--only": ("figure", ""), "--format": ("jpg",)},
    MAKE_RESULTS: {"--networks": ("resnet",)},
    DEMO: {"--model": ("resnet",)},
    DEMO_YEAR: {"--model": ("resnet",)},
    MAKE_SAMPLE: {"--drift": ("weather", "")},
    FETCH_DATASET: {"--months": ("2016_13", "january"), "--base-url": NOT_ADDRESSES},
    FETCH_MODELS: {"--model": ("resnet",), "--base-url": NOT_ADDRESSES},
    FETCH_RESULTS: {"--base-url": NOT_ADDRESSES},
}
OF_TRAFFIC = ("--pcap", "--scaler", "--alerts")
"""Options of the client that do not go with a dataset."""
ASKS_FOR_DEVICE = (TRAIN, CALIBRATE, EVALUATE, INFER, SERVER, CLIENT, GENERATOR)


@pytest.fixture(scope="module")
def good(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Arguments of every script that would do, but for the outputs, which each test adds."""
    folder = tmp_path_factory.mktemp("good")
    dataset = write_cells(month(), folder / "2016_01.csv")
    good_evaluation().to_csv(folder / "evaluation.csv", index=False)
    good_single_evaluation().to_csv(folder / "single.csv", index=False)
    verdicts = pd.DataFrame([[0.7, 0, 0.8, 1]] * 9, columns=list(INFERENCE_COLUMNS))
    verdicts.to_csv(folder / "verdicts.csv", index=False)
    (folder / "timings.tsv").write_text("batch_size\trequest_process_time\n1\t9.0\n")
    torch.save(dict(good_weights("MobileNetV2")), folder / "single.pth")
    write_front(good_front(), folder / "front.sav")
    (folder / "capture.pcap").write_bytes(pcap(FRAMES))
    write_front(good_front(), folder / "results" / "nsga2" / "mobilenet_x_f_0.9.sav")
    model = {"--trained-model": checkpoint, "--model": "mobilenet", "--dataset": dataset}
    network = {"--trained-network-file": checkpoint, "--network": "mobilenet"}
    write_edge_model(checkpoint.with_suffix(".onnx"), read_two_exits(checkpoint)[0], read_dataset(dataset).features[:9])
    edge = {"--cost-model": "edge", "--offload-timings": folder / "timings.tsv"}
    no_broker = {"--mq-hostname": "127.0.0.1", "--mq-port": 1}
    return {
        TRAIN: {"--dataset-folder": folder, "--model": "mobilenet", "--epochs": 1},
        RENEW: {"--champion": checkpoint, "--dataset-folder": folder, "--glob": "2016_01", "--epochs": 1},
        CALIBRATE: model,
        EVALUATE: model,
        CHOOSE: {"--verdicts": folder / "verdicts.csv", "--count": 5},
        YEAR: {
            "--trained-model": checkpoint,
            "--model": "mobilenet",
            "--dataset-folder": folder,
            "--train-month": "2016_01",
            **edge,
        },
        ENERGY: {
            "--trained-model": checkpoint,
            "--single-exit": folder / "single.pth",
            "--dataset": dataset,
            "--watts": 3,
            **no_broker,
        },
        SEARCH: {"--eval-file": folder / "evaluation.csv", "--gen": 2, **edge},
        CERTIFY: {"--eval-file": folder / "evaluation.csv", "--max-error": 0.99, **edge},
        CHART: {
            "--datafile": folder / "front.sav",
            "--eval-file": folder / "evaluation.csv",
            "--evaluate": folder / "evaluation.csv",
            "--single-exit": folder / "single.csv",
            **edge,
        },
        INFER: model,
        EXPORT: model,
        SERVER: {**network, **no_broker},
        CLIENT: {**network, **no_broker, "--dataset": dataset},
        GENERATOR: {**network, **no_broker, "--dataset": dataset},
        REPRODUCE: {"--results": folder / "results"},
        MAKE_RESULTS: {"--dataset-folder": folder, "--epochs": 1},
        DEMO: {"--dataset-folder": folder, "--epochs": 1},
        DEMO_LIVE: {"--epochs": 1},
        DEMO_YEAR: {"--epochs": 1},
        EXTRACT: {"--pcap": folder / "capture.pcap"},
        MAKE_SAMPLE: {"--rows": 5, "--months": 1},
        FETCH_DATASET: {"--base-url": NOWHERE},
        FETCH_RESULTS: {"--base-url": NOWHERE},
        FETCH_MODELS: {"--base-url": NOWHERE},
    }


def with_outputs(script: str, options: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Return the options, each output of the script being a file or folder of an earlier run."""
    complete = dict(options)
    for option, faults in PATHS[script].items():
        if faults in (OUTPUTS, TABLES, PICTURES, OUTPUT_FOLDERS):
            picture = faults is PICTURES or (script == CHART and faults is OUTPUTS)
            complete[option] = path = folder / f"out{option}{'.png' if picture else ''}"
            if faults is OUTPUT_FOLDERS:
                path.mkdir()
                path /= "earlier"
            path.write_bytes(b"of an earlier run")
    return complete


def actions(script: str) -> dict[str, argparse.Action]:
    """Return what a script's parser does for each option, by its first name."""
    parser: argparse.ArgumentParser = load_script(script).make_parser()
    return {action.option_strings[0]: action for action in parser._actions if action.dest != "help"}


def test_every_script_is_tried() -> None:
    assert set(PATHS) == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_file_and_number_and_name_that_a_script_takes_is_tried(script: str) -> None:
    taken = actions(script)
    assert {name for name, action in taken.items() if action.type is Path} == set(PATHS[script])
    checked = {name for name, action in taken.items() if action.choices or action.type not in {None, Path}}
    assert checked == set(NUMBERS.get(script, {})) | set(NAMES.get(script, {}))
    assert ("--device" in taken) == (script in ASKS_FOR_DEVICE)


@pytest.mark.parametrize(("script", "option", "fault"), CASES)
def test_a_bad_file_is_one_line_that_names_it_and_changes_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    good: Mapping[str, Mapping[str, object]],
    tmp_path: Path,
    script: str,
    option: str,
    fault: Fault,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = with_outputs(script, good[script], tmp_path)
    (tmp_path / "bad").mkdir()
    bad = fault.make(tmp_path / "bad")
    before = files_below(tmp_path)
    companions = ("--mq-tls",) if option in BROKER and option not in {"--mq-config", "--mq-password-file"} else ()
    if option == "--mq-key-file":
        options["--mq-certificate-file"] = CERTIFICATES["no certificate"].make(tmp_path / "bad")
        before = files_below(tmp_path)
    if option == "--earlier-dataset":
        options["--dataset"] = good[INFER]["--dataset"]
    if option == "--second-exit-file":
        network_file = "--trained-model" if script == INFER else "--trained-network-file"
        checkpoint = good[script][network_file]
        assert isinstance(checkpoint, Path)
        options[network_file] = checkpoint.with_suffix(".onnx")
    if option == "--release":
        del options["--trained-network-file"]
    if script == CLIENT and option in OF_TRAFFIC:
        del options["--dataset"]
        options |= {**good[EXTRACT], "--process-exit2-locally": "--debug"}
    ended = call(capsys, script, *flat({**options, option: bad}), *companions)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
    line = ended.err.rstrip("\n")
    assert line.startswith(f"{Path(script).name}: error: ")
    assert str(bad) in line or str(bad.parent) in line  # of an output, what could not be made
    assert [words for words in fault.says if words not in line] == []
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "script", [TRAIN, CALIBRATE, EVALUATE, CHOOSE, SEARCH, CHART, INFER, CLIENT, MAKE_SAMPLE, EXTRACT, EXPORT]
)
def test_a_disk_that_fills_up_is_one_line_and_leaves_what_was_there(
    capsys: pytest.CaptureFixture[str], good: Mapping[str, Mapping[str, object]], tmp_path: Path, script: str
) -> None:
    options = flat(with_outputs(script, good[script], tmp_path))
    if script == CLIENT:
        options.append("--process-exit2-locally")
    before = files_below(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes; a longer file fails as on a full disk
    try:
        ended = call(capsys, script, *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
    assert f"{tmp_path}/out" in ended.err
    assert "cannot be written" in ended.err
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    ("script", "option", "value"),
    [
        (script, option, value)
        for table in (NUMBERS, NAMES)
        for script, options in table.items()
        for option, values in options.items()
        for value in (*values, "nonsense")
    ],
)
def test_a_number_out_of_range_or_an_unknown_name_is_a_usage_error_that_quotes_it(
    capsys: pytest.CaptureFixture[str], script: str, option: str, value: str
) -> None:
    ended = call(capsys, script, f"{option}={value}")
    (line,) = ended.err.splitlines()
    assert (ended.code, ended.out) == (2, "")
    assert line.startswith(f"{Path(script).name}: error: argument {option}")
    assert repr(value) in line
    assert line.endswith("; see --help")


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_option_or_one_that_is_missing_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], good: Mapping[str, Mapping[str, object]], script: str
) -> None:
    savefiles = {option: "out" for option in PATHS[script] if "save" in option or option == "--output"}
    ended = call(capsys, script, *flat({**good[script], **savefiles}), "--nonsense")
    (line,) = ended.err.splitlines()
    assert (ended.code, line) == (
        2,
        f"{Path(script).name}: error: unrecognized arguments: --nonsense; see --help",
    )
    required = [name for name, action in actions(script).items() if action.required]
    if required:
        ended = call(capsys, script)
        assert (ended.code, ended.out) == (2, "")
        (line,) = ended.err.splitlines()
        assert all(option in line for option in required)


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "cpu:1", "meta", "nonsense", ""])
@pytest.mark.parametrize("script", ASKS_FOR_DEVICE)
def test_a_device_that_is_not_there_is_one_line_with_the_remedy(
    capsys: pytest.CaptureFixture[str],
    good: Mapping[str, Mapping[str, object]],
    tmp_path: Path,
    script: str,
    device: str,
) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    options = with_outputs(script, good[script], tmp_path)
    before = files_below(tmp_path)
    ended = call(capsys, script, *flat(options), "--device", device)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert f"--device {device}" in ended.err or f"--device {device!r}" in ended.err
    assert "Use --device cpu" in ended.err or "Use auto, cpu" in ended.err
    assert files_below(tmp_path) == before


def test_of_several_evaluation_files_the_bad_one_is_named(
    capsys: pytest.CaptureFixture[str], good: Mapping[str, Mapping[str, object]], tmp_path: Path
) -> None:
    bad = EVALUATIONS["NaN"].make(tmp_path)
    ended = call(capsys, SEARCH, *flat(good[SEARCH]), "--eval-file", bad, "--savefile", tmp_path / "out.sav")
    assert (ended.code, f"error: {bad}: row 4" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("certainties", "says"),
    [([0.1, 0.1], "no event of these rows is accepted"), ([0.1, 0.9], "accept 0.5000; lower --min-acceptance")],
)
def test_an_acceptance_out_of_reach_is_one_line_and_no_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, certainties: list[float], says: str
) -> None:
    table = good_evaluation().assign(cnf_exit_1=0.1, cnf_exit_2=certainties * (ROWS // 2))
    table.to_csv(tmp_path / "evaluation.csv", index=False)
    before = files_below(tmp_path)
    ended = call(capsys, SEARCH, "--eval-file", tmp_path / "evaluation.csv", "--savefile", tmp_path / "out.sav")
    (line,) = ended.err.splitlines()
    assert (ended.code, says in line) == (2, True)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["text", "cut off", "a bomb, pickled", "a bomb, in torch's archive", "a list", "empty"]
)
def test_a_bad_file_to_resume_from_is_one_line_and_stays_as_it_is(
    capsys: pytest.CaptureFixture[str], good: Mapping[str, Mapping[str, object]], tmp_path: Path, name: str
) -> None:
    state = tmp_path / "MobileNetV2WithExits_unfinished.state"
    CHECKPOINTS[name].make(tmp_path).rename(state)
    before = files_below(tmp_path)
    ended = call(capsys, TRAIN, *flat(good[TRAIN]), "--output-folder", tmp_path, "--resume")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert str(state) in ended.err
    assert files_below(tmp_path) == before


def test_resuming_where_nothing_was_interrupted_is_one_line(
    capsys: pytest.CaptureFixture[str], good: Mapping[str, Mapping[str, object]], tmp_path: Path
) -> None:
    ended = call(capsys, TRAIN, *flat(good[TRAIN]), "--output-folder", tmp_path, "--resume")
    (line,) = ended.err.splitlines()
    assert (ended.code, line.endswith("eave out --resume.")) == (2, True)
    assert files_below(tmp_path) == {}


def test_a_hostile_file_given_by_a_user_is_one_line_and_does_nothing(tmp_path: Path) -> None:
    bad = FRONTS["a bomb"].make(tmp_path)
    arguments = ("--datafile", bad, "--savefile", tmp_path / "out.png")
    ended = subprocess.run([sys.executable, ROOT / CHART, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert set(files_below(tmp_path)) == {str(bad)}
