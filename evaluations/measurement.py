"""Run a network over a dataset part by part, with the cost of every part."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from models.early_exit import TwoExits
from models.prediction import Progress, batches, no_progress
from utils.classification_metrics import certainty
from utils.schema import EVALUATION_COLUMNS, SINGLE_EXIT_EVALUATION_COLUMNS
from utils.timing import Stopwatch


def measure_two_exits(
    network: TwoExits,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    batch_size: int,
    device: torch.device,
    clock: str = "cpu",
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Return the evaluation table of a network with two exits, a row per dataset row, in order.

    Segment 1 is computed once; its time, and that of segment 2 alone, stand apart from those of the exits. A batch's
    time is shared equally by its rows.

    Args:
        network: on ``device``, in evaluation mode.
        features: (N, 58) float32.
        labels: (N,) int64.
        batch_size: rows computed at once.
        device: where it runs.
        clock: a key of ``timing.CLOCKS``.
        progress: called with the rows of each batch.

    Returns:
        columns ``EVALUATION_COLUMNS``; times in seconds per event.
    """
    tables = []
    with torch.inference_mode():
        network(next(batches(features, batch_size, device)))  # warm-up: first calls allocate and choose kernels
        for images in batches(features, batch_size, device):
            watch = Stopwatch(clock, device)
            activations = network.segment_1(images)
            segment_1 = watch.lap()
            logits_1 = network.exit_1(activations)
            exit_1 = watch.lap()
            deeper = network.segment_2(activations)
            segment_2 = watch.lap()
            logits_2 = network.exit_2(deeper)
            exit_2 = watch.lap()
            rows = len(images)
            prediction_1, certainty_1 = certainty(logits_1.cpu().numpy())
            prediction_2, certainty_2 = certainty(logits_2.cpu().numpy())
            first = (prediction_1, certainty_1, segment_1 / rows, exit_1 / rows)
            second = (prediction_2, certainty_2, segment_2 / rows, exit_2 / rows)
            tables.append(pd.DataFrame(dict(zip(EVALUATION_COLUMNS[1:], first + second, strict=True))))
            progress(rows)
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, EVALUATION_COLUMNS[0], labels)
    return table


def measure_single_exit(
    network: nn.Module,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    batch_size: int,
    device: torch.device,
    clock: str = "cpu",
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Return the evaluation table of a single-exit network; arguments as ``measure_two_exits``.

    Returns:
        columns ``SINGLE_EXIT_EVALUATION_COLUMNS``; time in seconds per event.
    """
    tables = []
    with torch.inference_mode():
        network(next(batches(features, batch_size, device)))  # warm-up
        for images in batches(features, batch_size, device):
            watch = Stopwatch(clock, device)
            logits = network(images)
            seconds = watch.lap() / len(images)
            values = (*certainty(logits.cpu().numpy()), seconds)
            tables.append(pd.DataFrame(dict(zip(SINGLE_EXIT_EVALUATION_COLUMNS[1:], values, strict=True))))
            progress(len(images))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, SINGLE_EXIT_EVALUATION_COLUMNS[0], labels)
    return table
