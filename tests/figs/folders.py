"""Small results folders for tests: evaluations of a few events that can be checked by hand."""

from pathlib import Path

import numpy as np
import pandas as pd

from figs.figure_data import Inputs, OperatingPoint
from figs.results_folder import find_results
from nsga2.operating_point import build_front_table, get_thresholds
from utils.results import Front, read_front, write_front, write_table
from utils.schema import EVALUATION_COLUMNS, SINGLE_EXIT_EVALUATION_COLUMNS

# Label, exit 1 and exit 2: at thresholds of 0.8 the first is accepted at exit 1, right; the second at exit 1, wrong;
# the third and fourth are offloaded, right and wrong; the fifth is rejected.
TWO_EXITS = (
    (1, 1, 0.9, 1, 0.6),
    (0, 1, 0.8, 0, 0.9),
    (0, 1, 0.6, 0, 0.9),
    (1, 1, 0.7, 0, 0.8),
    (0, 0, 0.5, 1, 0.7),
)
SINGLE_EXIT = ((1, 1, 0.9), (1, 0, 0.8), (1, 1, 0.7), (0, 0, 0.9), (0, 1, 0.6))
SEGMENT_1, HEAD_1, SEGMENT_2, HEAD_2, WHOLE = 0.001, 0.0005, 0.004, 0.002, 0.01
"""Seconds per event."""

FRONT = Front(np.array([[0.8] * 4, [0.5] * 4]), np.array([[0.1, 0.4], [0.3, 0.0]]), 1500.0, 7500.0, 0.6, 1.0, 0.6, 1.0)
"""Its point 1 is the one with all thresholds at 0.8; both are equally close to the ideal, so the knee is point 0."""

TIMINGS = """\
network	datacenter	input_size	batch_size	e1_local_time	e1_process_time	e2_local_time	e2_process_time	\
request_local_time	request_process_time	e2_remote_time	network_time	data_size
AlexNet	near	8	1	5	8	100	400	30	1	10	20	7000
AlexNet	near	8	10	9	9	300	900	60	2	30	30	60000
AlexNet	far	8	1	5	8	120	440	90	3	10	80	7000
AlexNet	far	48	1	5	8	999	999	99	99	99	99	9999
"""


def write_two_exits(path: Path) -> None:
    """Write an evaluation of two exits."""
    answers = pd.DataFrame(TWO_EXITS, columns=["y", "y_exit_1", "cnf_exit_1", "y_exit_2", "cnf_exit_2"])
    times = {
        "bb_time_exit_1": SEGMENT_1,
        "exit_time_exit_1": HEAD_1,
        "bb_time_exit_2": SEGMENT_2,
        "exit_time_exit_2": HEAD_2,
    }
    write_table(answers.assign(**times)[list(EVALUATION_COLUMNS)], path)


def write_single_exit(path: Path) -> None:
    """Write an evaluation of a single exit."""
    rows = [(*row, WHOLE) for row in SINGLE_EXIT]
    write_table(pd.DataFrame(rows, columns=list(SINGLE_EXIT_EVALUATION_COLUMNS)), path)


def fill(folder: Path) -> Path:
    """Make a whole results folder of two months and one network; return it."""
    for month in ("2016_02", "2016_03"):
        write_two_exits(folder / "evaluations" / f"alexnet_pi_{month}.csv")
        write_single_exit(folder / "evaluations" / f"alexnet_single_pi_{month}.csv")
    write_two_exits(folder / "evaluations" / "alexnet_uncalibrated_pi_2016_03.csv")
    (folder / "evaluations" / "pi_offload_timings.tsv").write_text(TIMINGS)
    write_front(FRONT, folder / "nsga2" / "alexnet_x_f_0.9_2016_02.sav")
    return folder


def make_inputs(folder: Path, point: int = 1, watts: float | None = None) -> Inputs:
    """Return the inputs of figures, as the script does."""
    results = find_results(folder)
    points = {}
    for network, path in results.fronts.items():
        table = build_front_table(read_front(path))
        points[network] = OperatingPoint(path, table, point, str(point), get_thresholds(table, point))
    return Inputs(results, points, watts)
