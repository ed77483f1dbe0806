"""Every script as a user meets it: its help, its options, the whole chain from another folder, an interrupt."""

import json
import os
import pickle
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pytest
import torch

from models.checkpoint import read_two_exits
from tests.scripts import (
    CALIBRATE,
    CHART,
    CLIENT,
    EVALUATE,
    FETCH_MODELS,
    INFER,
    ROOT,
    SCRIPTS,
    SEARCH,
    SERVER,
    TRAIN,
    call,
    load_script,
)
from utils import VERSION
from utils.dataset import read_labelled
from utils.schema import (
    CLASS_NAMES,
    EVALUATION_COLUMNS,
    INFERENCE_COLUMNS,
    NOT_ASKED,
    OFFLOAD_COLUMNS,
    REJECTED,
    SINGLE_EXIT_EVALUATION_COLUMNS,
)

MOST_TIMES_PLAIN = 8
HEAVY = (
    "torch", "pandas", "numpy", "matplotlib", "pika", "requests", "pymoo", "safetensors", "sklearn", "tqdm", "jinja2",
)  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"

# The options that were asked for, each with the default that was: None where none was.
REQUIRED: Final = "required"
BROKER = {"--mq-username": None, "--mq-password": None, "--mq-port": None, "--mq-queue": "ee-processor"}
NETWORK = {"--trained-network-file": REQUIRED, "--network": None, "--device": "auto"}
OR_RELEASE = {"--trained-network-file": None}  # a release can take its place
MODEL = {"--trained-model": REQUIRED, "--model": None, "--batch-size": None, "--dataset": REQUIRED}
OPTIONS: dict[str, dict[str, str | None]] = {
    TRAIN: {
        "--dataset-folder": REQUIRED, "--glob": "2016_01", "--batch_size": "1000", "--epochs": "5",
        "--model": "alexnet", "--output-folder": "saves", "--validation-split": None, "--seed": None, "--resume": None,
        "--keep": None, "--single-exit": None,
    },
    CALIBRATE: {
        **MODEL, "--calibrated-model-savefile": REQUIRED, "--max-iter": "10", "--epochs": "80", "--savefolder": None,
        "--method": None,
    },
    EVALUATE: {**MODEL, "--savefile": REQUIRED},
    SEARCH: {
        "--min-acceptance": "0.7", "--eval-file": REQUIRED, "--savefile": REQUIRED, "--offspring": "80",
        "--gen": "1000", "--population": "100", "--seed": "1",
    },
    CHART: {"--datafile": REQUIRED, "--savefile": REQUIRED, "--operation-point": "5"},
    INFER: {**MODEL, "--savefile": REQUIRED},
    SERVER: {**BROKER, **NETWORK, "--mq-hostname": None, **OR_RELEASE},
    CLIENT: {
        **BROKER, **NETWORK, **OR_RELEASE, "--mq-hostname": None, "--dataset": None, "--batch-size": "1000",
        "--normal-exit1-min-certainty": "0.95", "--attack-exit1-min-certainty": "0.95",
        "--normal-exit2-min-certainty": "0.98", "--attack-exit2-min-certainty": "0.98", "--savefile": None,
        "--debug": None, "--process-exit2-locally": None,
    },
    FETCH_MODELS: {"--model": None, "--output-folder": None, "--base-url": None},
}  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(script: str, *arguments: object, cwd: Path) -> str:
    """Run a script in its own process, from another folder, and return what it printed."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def processor_time(program: Callable[[], object]) -> float:
    """Return the processor time in seconds of the processes that a function runs to their end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def plain_start() -> float:
    """The processor time in seconds of a program that imports only what every parser needs."""
    command = [sys.executable, "-c", "import argparse, dataclasses, json, pathlib"]
    return min(processor_time(lambda: subprocess.run(command, check=True)) for _ in range(3))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_from_any_folder_with_little_work(script: str, plain_start: float, tmp_path: Path) -> None:
    printed: list[str] = []
    times = (processor_time(lambda: printed.append(run(script, "--help", cwd=tmp_path))) for _ in range(3))
    assert any(each <= MOST_TIMES_PLAIN * plain_start for each in times)
    assert printed[0].startswith(f"usage: {Path(script).name} ")
    assert f"python {script} " in printed[0]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_the_version_that_the_changelog_names(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        load_script(script).make_parser().parse_args(["--version"])
    assert capsys.readouterr().out.split()[1:] == [VERSION]
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == VERSION


def test_no_script_imports_anything_heavy_to_build_its_parser(tmp_path: Path) -> None:
    program = f"""
import importlib.util, json, sys
found = {{}}
for script in {list(SCRIPTS)!r}:
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("script", {str(ROOT)!r} + "/" + script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make_parser().format_help()
    found[script] = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} & set({HEAVY!r}))
print(json.dumps(found))
"""
    printed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(printed.stdout) == {script: [] for script in SCRIPTS}


@pytest.mark.parametrize(
    ("script", "option", "default"),
    [(script, option, default) for script, options in OPTIONS.items() for option, default in options.items()],
)
def test_an_option_that_was_asked_for_is_there_with_its_default(script: str, option: str, default: str | None) -> None:
    actions = {name: action for action in load_script(script).make_parser()._actions for name in action.option_strings}
    action = actions[option]
    assert action.required == (default == REQUIRED)
    if default not in {None, REQUIRED}:
        assert f"(default: {default}" in str(action.help).replace("%(default)s", str(action.default))
        assert action.default is None or str(action.default) == default


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_commands_of_a_docstring_are_understood_by_the_script_itself(script: str) -> None:
    module = load_script(script)
    lines = re.findall(r"^    python ((?:.*\\\n)*.*)", str(module.__doc__), re.MULTILINE)
    assert lines
    for line in lines:
        named, *arguments = shlex.split(line.replace("\\\n", " "))
        assert named == script
        module.make_parser().parse_args(arguments)


@pytest.mark.parametrize(("family", "written"), [("alexnet", "AlexNet"), ("mobilenet", "MOBILENET")])
def test_a_network_is_named_in_any_case(family: str, written: str) -> None:
    for script, option, rest in (
        (TRAIN, "--model", ("--dataset-folder", "D")),
        (CALIBRATE, "--model", ("--trained-model", "M", "--calibrated-model-savefile", "S", "--dataset", "D")),
        (SERVER, "--network", ("--mq-hostname", "H", "--trained-network-file", "M")),
        (CLIENT, "--network", ("--mq-hostname", "H", "--trained-network-file", "M", "--dataset", "D")),
    ):
        args = load_script(script).make_parser().parse_args([*rest, option, written])
        assert family in (getattr(args, "model", None), getattr(args, "network", None))


TRAINING = ("--dataset-folder", "data", "--model", "mobilenet", "--epochs", 2, "--seed", 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A folder with two short months in ``data``; a user works in it."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "data").mkdir()
    for month, rows in (("2016_01", 150), ("2016_02", 120)):
        lines = (sample / f"{month}.csv").read_text().splitlines(keepends=True)
        (folder / "data" / f"{month}.csv").write_text("".join(lines[: rows + 1]))
    return folder


@pytest.fixture(scope="module")
def chain(data: Path) -> dict[str, str]:
    """What each script printed, run one after the other as a user would, in the folder ``data``."""
    month = ("--dataset", "data/2016_02.csv")
    model = ("--trained-model", "new/deep/calibrated.pth")
    printed = {TRAIN: run(TRAIN, *TRAINING, "--output-folder", "saves", cwd=data)}
    best = printed[TRAIN].splitlines()[-1].rpartition(" -> ")[2]
    printed[CALIBRATE] = run(
        CALIBRATE, "--trained-model", best, "--model", "mobilenet", *month,
        "--calibrated-model-savefile", "new/deep/calibrated.pth", "--savefolder", "pictures", cwd=data,
    )  # fmt: skip
    printed[EVALUATE] = run(EVALUATE, *model, *month, "--savefile", "evaluation.csv", cwd=data)
    search = ("--eval-file", "evaluation.csv", "--savefile", "front.sav", "--gen", 20, "--min-acceptance", 0.8)
    printed[SEARCH] = run(SEARCH, *search, cwd=data)
    printed[CHART] = run(CHART, "--datafile", "front.sav", "--savefile", "front.png", cwd=data)
    printed[INFER] = run(INFER, *model, *month, "--savefile", "inference.csv", cwd=data)
    printed[CLIENT] = run(
        CLIENT, *client_arguments(printed[CHART]), "--process-exit2-locally", "--savefile", "verdicts.csv",
        "--batch-size", 50, cwd=data,
    )  # fmt: skip
    return printed


def client_arguments(chart: str) -> list[str]:
    """Return the arguments of the client's command line that the chart printed, filled in as it asks the user to."""
    command = next(line for line in chart.splitlines() if line.startswith(f"python {CLIENT} "))
    filled = {"M.pth": "new/deep/calibrated.pth", "NETWORK": "MobileNet", "D.csv": "data/2016_02.csv"}
    return [filled.get(word, word) for word in shlex.split(command)[2:]]


def read_verdicts(data: Path) -> pd.DataFrame:
    return pd.read_csv(data / "verdicts.csv", dtype=str, keep_default_na=False)


def test_training_leaves_a_checkpoint_an_epoch_and_names_the_best(data: Path, chain: dict[str, str]) -> None:
    names = sorted(path.name for path in (data / "saves").iterdir())
    pattern = r"MobileNetV2WithExits_\d{8}-\d{6}_epoch_%d_\d+\.\d\d_\d+\.\d\d\.pth"
    assert [bool(re.fullmatch(pattern % epoch, name)) for epoch, name in enumerate(names, 1)] == [True, True]
    *_, last = chain[TRAIN].splitlines()
    assert last.startswith("best by held-back loss: ") and Path(last.rpartition(" -> ")[2]).name in names
    for epoch, name in enumerate(names, 1):
        _, checkpoint = read_two_exits(data / "saves" / name, "mobilenet")
        assert (checkpoint.calibrated, checkpoint.training["epoch"]) == (False, epoch)
        assert (checkpoint.training["data"], checkpoint.training["seed"]) == ("2016_01.csv", 3)


def test_calibration_leaves_a_network_with_two_temperatures_and_two_pictures(data: Path, chain: dict[str, str]) -> None:
    content = torch.load(data / "new" / "deep" / "calibrated.pth", weights_only=True)
    temperatures = {key for key in content["state_dict"] if not key.startswith("model.")}
    assert temperatures == {"temperature.0", "temperature.1"}
    assert all(content["state_dict"][key].shape == (1,) for key in temperatures)
    assert [path.read_bytes()[:8] for path in (data / "pictures").iterdir()] == [PNG] * 2
    assert len(re.findall(r"NLL \d\.\d+ -> \d\.\d+  ECE \d\.\d+ -> \d\.\d+", chain[CALIBRATE])) == 2


@pytest.mark.usefixtures("chain")
def test_the_evaluation_keeps_its_contract(data: Path) -> None:
    table = pd.read_csv(data / "evaluation.csv")
    _, labels = read_labelled(data / "data" / "2016_02.csv")
    assert tuple(table.columns) == EVALUATION_COLUMNS
    assert table["y"].tolist() == labels.tolist()
    assert table[["cnf_exit_1", "cnf_exit_2"]].to_numpy().min() >= 0.5
    assert (table.filter(like="time").to_numpy() > 0).all()


@pytest.mark.usefixtures("chain")
def test_the_front_keeps_its_contract(data: Path) -> None:
    content = pickle.loads((data / "front.sav").read_bytes())
    assert [type(part) for part in content] == [np.ndarray] * 2 + [float] * 6
    thresholds, objectives, min_time, max_time, accuracy_1, acceptance_1, accuracy_2, acceptance_2 = content
    assert (thresholds.shape[1], objectives.shape) == (4, (len(thresholds), 2))
    table = pd.read_csv(data / "evaluation.csv")
    assert min_time == pytest.approx(1e6 * (table["bb_time_exit_1"] + table["exit_time_exit_1"]).mean())
    times = table["bb_time_exit_1"] + table["bb_time_exit_2"] + table["exit_time_exit_2"]
    assert max_time == pytest.approx(1e6 * times.mean())
    assert accuracy_1 == pytest.approx((table["y_exit_1"] == table["y"]).mean())
    assert accuracy_2 == pytest.approx((table["y_exit_2"] == table["y"]).mean())
    assert (acceptance_1, acceptance_2) == (1.0, 1.0)


def test_the_chart_prints_its_table_and_draws_it(data: Path, chain: dict[str, str]) -> None:
    assert chain[CHART].splitlines()[0].split() == ["point", "quality", "error", "time", "n_1", "a_1", "n_2", "a_2"]
    assert (data / "front.png").read_bytes().startswith(PNG)


def test_the_search_says_where_less_normalised_time_would_be_more_time(data: Path, chain: dict[str, str]) -> None:
    content = pickle.loads((data / "front.sav").read_bytes())
    assert ("note: " in chain[SEARCH]) == (content[3] < content[2])


def test_inference_keeps_its_contract_and_agrees_with_the_evaluation(data: Path, chain: dict[str, str]) -> None:
    answers, evaluation = pd.read_csv(data / "inference.csv"), pd.read_csv(data / "evaluation.csv")
    assert tuple(answers.columns) == (*INFERENCE_COLUMNS, "class")
    assert answers["class"].tolist() == evaluation["y"].tolist()
    for number in (1, 2):
        assert answers[f"exit_{number}_prediction"].tolist() == evaluation[f"y_exit_{number}"].tolist()
        np.testing.assert_allclose(answers[f"exit_{number}_certainty"], evaluation[f"cnf_exit_{number}"], atol=1e-6)
        accuracy = 100 * (answers[f"exit_{number}_prediction"] == answers["class"]).mean()
        certain = answers[f"exit_{number}_certainty"].mean()
        assert f"exit {number}: accuracy {accuracy:.2f} %  mean certainty {certain:.4f}" in chain[INFER]


def test_the_verdicts_keep_their_contract_and_the_thresholds_of_the_operation_point(
    data: Path, chain: dict[str, str]
) -> None:
    table, answers = read_verdicts(data), pd.read_csv(data / "inference.csv")
    assert tuple(table.columns) == OFFLOAD_COLUMNS
    args = vars(load_script(CLIENT).make_parser().parse_args(client_arguments(chain[CHART])))
    for verdict, answer in zip(table.to_dict("records"), answers.to_dict("records"), strict=True):
        assert verdict["class"] == str(answer["class"])
        for number in (1, 2):
            certainty, prediction = verdict[f"exit_{number}_certainty"], verdict[f"exit_{number}_prediction"]
            assert prediction == str(answer[f"exit_{number}_prediction"])
            assert float(certainty) == pytest.approx(answer[f"exit_{number}_certainty"], abs=1e-5)
            least = args[f"{CLASS_NAMES[int(prediction)]}_exit{number}_min_certainty"]
            accepted = float(certainty) >= least
            if accepted:
                break
        if number == 1:
            assert (verdict["exit_2_certainty"], verdict["exit_2_prediction"]) == (NOT_ASKED, NOT_ASKED)
        assert verdict["final_certainty"] == certainty
        assert verdict["final_prediction"] == (prediction if accepted else REJECTED)


def test_the_client_prints_every_batch_and_totals_that_its_file_confirms(data: Path, chain: dict[str, str]) -> None:
    verdicts = read_verdicts(data)
    offloaded = (verdicts["exit_2_prediction"] != NOT_ASKED).sum()
    rejected = (verdicts["final_prediction"] == REJECTED).sum()
    accepted = verdicts[verdicts["final_prediction"] != REJECTED]
    right = (accepted["final_prediction"] == accepted["class"]).mean()
    batches = re.findall(r"^batch \d: (\d+) events", chain[CLIENT], re.MULTILINE)
    assert batches == ["50", "50", "20"]
    (total,) = (line for line in chain[CLIENT].splitlines() if line.startswith("total: "))
    assert f"120 events, offloaded {offloaded} (" in total
    assert f"rejected {rejected} (" in total
    assert total.endswith(f"accuracy of accepted {100 * right:.2f} %")


def test_a_dataset_without_classes_is_inferred_and_decided_too(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    pd.read_csv(data / "data" / "2016_02.csv").drop(columns="class").to_csv(tmp_path / "unlabelled.csv", index=False)
    month = ("--dataset", tmp_path / "unlabelled.csv", "--savefile")
    inferred = call(capsys, INFER, "--trained-model", checkpoint, *month, tmp_path / "inference.csv")
    assert (inferred.code, inferred.err, "accuracy" in inferred.out) == (0, "", False)
    assert tuple(pd.read_csv(tmp_path / "inference.csv").columns) == INFERENCE_COLUMNS
    network = ("--trained-network-file", checkpoint, "--network", "mobilenet", "--process-exit2-locally")
    decided = call(capsys, CLIENT, *network, *month, tmp_path / "verdicts.csv")
    assert (decided.code, decided.err, "accuracy" in decided.out) == (0, "", False)
    assert set(read_verdicts(tmp_path)["class"]) == {NOT_ASKED}


@pytest.mark.slow
def test_a_single_exit_baseline_is_trained_and_evaluated(data: Path) -> None:
    training = ("--dataset-folder", "data", "--model", "mobilenet", "--epochs", 1, "--single-exit")
    printed = run(TRAIN, *training, "--output-folder", "single", cwd=data)
    (path,) = (data / "single").iterdir()
    assert re.fullmatch(r"MobileNetV2_\d{8}-\d{6}_epoch_1_\d+\.\d\d\.pth", path.name)
    assert printed.splitlines()[-1].endswith(f" -> single/{path.name}")
    month = ("--dataset", "data/2016_02.csv", "--savefile", "single.csv")
    run(EVALUATE, "--trained-model", path, *month, "--clock", "wall", cwd=data)
    table = pd.read_csv(data / "single.csv")
    assert tuple(table.columns) == SINGLE_EXIT_EVALUATION_COLUMNS
    assert table["y"].tolist() == read_labelled(data / "data" / "2016_02.csv")[1].tolist()
    assert table["cnf"].between(0.5, 1).all() and (table["avg_time"] > 0).all()


def interrupt(data: Path, folder: str, *options: str, at_line: str) -> tuple[str, list[str]]:
    """Train into a folder, interrupt when a line begins so, and return that line and what stands on stderr."""
    command = [sys.executable, str(ROOT / TRAIN), *map(str, TRAINING), *options, "--output-folder", folder]
    with subprocess.Popen(
        command,
        cwd=data,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith(at_line):
            assert line, "training ended first"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    return line.strip(), errors.splitlines()


@pytest.mark.slow
def test_an_interrupted_training_keeps_its_last_epoch_and_resumes_to_the_same_end(
    data: Path, chain: dict[str, str]
) -> None:
    line, errors = interrupt(data, "interrupted", at_line="epoch 1:")
    assert errors == [
        "The last complete epoch is saved. Continue with the same command and --resume.",
        "train-early-exit-network.py: interrupted",
    ]
    first, state = Path(line.rpartition(" -> ")[2]), "MobileNetV2WithExits_unfinished.state"
    assert {path.name for path in (data / "interrupted").iterdir()} == {first.name, state}
    read_two_exits(data / first, "mobilenet")

    printed = run(TRAIN, *TRAINING, "--output-folder", "interrupted", "--resume", cwd=data)
    assert printed.count("\nepoch ") == 1
    assert {path.suffix for path in (data / "interrupted").iterdir()} == {".pth"}
    resumed, whole = (sorted((data / folder).glob("*.pth")) for folder in ("interrupted", "saves"))
    for paths in zip(resumed, whole, strict=True):
        ours, theirs = (read_two_exits(path)[0].state_dict() for path in paths)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    best = [text.splitlines()[-1].rpartition("_epoch_")[2] for text in (printed, chain[TRAIN])]
    assert best[0] == best[1]


@pytest.mark.slow
def test_an_interrupt_before_the_first_epoch_ends_leaves_nothing(data: Path) -> None:
    _, errors = interrupt(data, "nothing", "--batch_size", "1", at_line="MobileNetV2WithExits on cpu:")
    assert errors == ["train-early-exit-network.py: interrupted"]
    assert list((data / "nothing").iterdir()) == []
