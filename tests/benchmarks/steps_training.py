"""An epoch of training on January and a calibration on February, both networks, on one thread."""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.temperature import Quality, fit_by_likelihood, measure_quality
from dnn.training import Trainer, TrainingSettings, choose_batch_size, count_distinct_rows, evaluate, is_bfloat16_fast
from models import ARCHITECTURES
from models.cpu_network import compute_logits
from models.early_exit import EarlyExitNetwork, TwoExits, initialise
from models.prediction import predict
from models.preprocessing import fit_quantile_transform
from tests.benchmarks import plain_training
from tests.benchmarks.agreement import DisagreementError
from tests.benchmarks.ceiling import threads, training_operations
from tests.benchmarks.material import CLASSES, TITLES, Bench, FloatArray
from tests.benchmarks.plain_network import PlainNetwork
from tests.benchmarks.plain_training import PlainTraining, Rows
from tests.benchmarks.rounds import Costs, Turns, in_turns, timed
from tests.benchmarks.table import Row, row
from tests.scripts import CALIBRATE, TRAIN, load_script

THREADS = 1
GOALS = {"training": 2.0, "calibration": 5.0}
TEMPERATURE_TOLERANCE, MORE_ECE = 0.01, 1e-4
AT_ONCE = 1000
"""Rows of a pass of the plain calibration: what the published client computes at once, for its own is not known."""


def new_network(family: str, features: FloatArray, seed: int) -> EarlyExitNetwork:
    """Return a network as the training script begins with it."""
    torch.manual_seed(seed)
    network = ARCHITECTURES[CLASSES[family]].create()
    assert isinstance(network, EarlyExitNetwork)
    initialise(network)
    network.transform = fit_quantile_transform(features)
    return network


def plain_of(family: str, network: TwoExits) -> PlainNetwork:
    """Return the plain version with the same weights."""
    assert isinstance(network, EarlyExitNetwork)
    return PlainNetwork(family, copy.deepcopy(network.transform), network.state_dict())


def january(bench: Bench) -> tuple[FloatArray, NDArray[np.int64], int]:
    """Return features and labels of every so many-th row of January, and the batch size for all of it."""
    features, labels = bench.month(1)
    step = max(1, round(len(features) / bench.budget.training_rows))
    return features[::step], labels[::step], choose_batch_size(load_script(TRAIN).BATCH_SIZE, len(features))


def training(bench: Bench) -> Iterator[Row]:
    """One epoch of each of several seeds; both versions begin with the same weights."""
    features, labels, size = january(bench)
    kind = torch.bfloat16 if is_bfloat16_fast(torch.device("cpu")) else torch.float32
    computed = _computed_rows(features, labels, size)
    for family in bench.budget.families:
        with threads(THREADS):
            runs = [_one_seed(bench, family, 1 + run) for run in range(bench.budget.rounds)]
        turns = Turns(*(tuple(side) for side in zip(*(costs for costs, _ in runs), strict=True)))
        network = plain_of(family, new_network(family, features, 1))
        share = bench.ceiling.share(training_operations(network) * computed, turns.medians[1], THREADS, kind)
        holds, words = compared_losses([losses for _, losses in runs])
        note = (
            f"one thread, {len(features):,} rows in batches of {size}, of which ours computes about {computed:,}, "
            f"in {str(kind).removeprefix('torch.')}; {words}"
        )
        yield row(
            f"6 training, an epoch, {TITLES[family]}", "s", turns, goal=GOALS["training"], ceiling=share, holds=holds,
            note=note,
        )  # fmt: skip


def _one_seed(bench: Bench, family: str, seed: int) -> tuple[Costs, Costs]:
    """Train both versions for an epoch; return the seconds and the losses of either."""
    features, labels, size = january(bench)
    settings = TrainingSettings(1, size, load_script(TRAIN).LEARNING_RATES[family], seed=seed)
    begun = new_network(family, features, seed)
    plain = plain_of(family, begun)
    plainly = PlainTraining(plain, settings, Rows(features, labels))
    ours = Trainer(begun, settings, len(features))
    (turns,) = in_turns(
        timed(plainly.train_one_epoch), timed(lambda: ours.train_one_epoch(features, labels)), 1, warm_up=False
    )
    bench.trained[family] = begun.eval().requires_grad_(False)
    return (*turns.plain, *turns.ours), (_loss(plain, features, labels), _loss(begun, features, labels))


def _loss(network: torch.nn.Module, features: FloatArray, labels: NDArray[np.int64]) -> float:
    """Return the loss of both exits over all rows, without dropout or smoothing."""
    return evaluate(network, features, labels)[0]


def _computed_rows(features: FloatArray, labels: NDArray[np.int64], size: int) -> int:
    order = np.random.default_rng(1).permutation(len(features))
    starts = range(0, len(order), size)
    return sum(
        len(count_distinct_rows(features[rows], labels[rows])[0]) for rows in (order[i : i + size] for i in starts)
    )


def compared_losses(losses: list[Costs]) -> tuple[bool, str]:
    """Return whether both versions' losses are as equal as the plain one's seeds, and all of them in words.

    Args:
        losses: the plain one's and ours of each seed, nats.
    """
    plain, ours = np.array(losses).T
    apart, spread = float(abs(plain.mean() - ours.mean())), float(np.ptp(plain))
    texts = ["/".join(f"{loss:.3f}" for loss in one) for one in (plain, ours)]
    words = f"loss after it, nats, by seed: plain {texts[0]}, ours {texts[1]}; means {apart:.3f} apart"
    if len(plain) == 1:
        return True, words
    return apart <= spread, f"{words}, the plain one's seeds {spread:.3f}"


def calibration(bench: Bench) -> Iterator[Row]:
    """Both exits' temperatures from February, from the network to the numbers."""
    features, labels = bench.month(2)
    size = load_script(CALIBRATE).make_parser().get_default("batch_size")
    for family in bench.budget.families:
        network = trained(bench, family)
        plain = plain_of(family, network).eval()
        found: dict[str, tuple[float, ...]] = {}

        def plainly(plain: PlainNetwork = plain, found: dict[str, tuple[float, ...]] = found) -> None:
            found["plain"] = plain_training.calibrate(plain, features, labels, AT_ONCE)

        def ours(network: TwoExits = network, found: dict[str, tuple[float, ...]] = found) -> None:
            exits = compute_logits(network, features, size, torch.device("cpu"))
            found["ours"] = tuple(fit_by_likelihood(logits, labels) for logits in exits)

        with threads(THREADS):
            (turns,) = in_turns(timed(plainly), timed(ours), bench.budget.rounds, warm_up=False)
            exits = predict(network, features, size)
        parts = [
            _compared(
                number, measure_quality(logits, labels, theirs), measure_quality(logits, labels, own), theirs, own
            )
            for number, logits, theirs, own in zip((1, 2), exits, found["plain"], found["ours"], strict=True)
        ]
        yield row(
            f"7 calibration of both exits, {TITLES[family]}", "s", turns, goal=GOALS["calibration"],
            note=f"one thread, {len(features):,} rows, passes of {AT_ONCE} and {size}; {'; '.join(parts)}",
        )  # fmt: skip


def trained(bench: Bench, family: str) -> TwoExits:
    """Return a network trained for one epoch, by the step before or now: an untrained one has no temperature."""
    if family not in bench.trained:
        with threads(THREADS):
            _one_seed(bench, family, 1)
    return bench.trained[family]


def _compared(number: int, plain: Quality, ours: Quality, theirs: float, own: float) -> str:
    """Return both temperatures in words.

    Raises:
        DisagreementError: they differ, and ours calibrates worse.
    """
    words = f"exit {number}: temperature {theirs:.3f}, ours {own:.3f}; ECE {plain.ece:.4f}, ours {ours.ece:.4f}"
    if abs(theirs / own - 1) > TEMPERATURE_TOLERANCE and not ours.ece <= plain.ece + MORE_ECE:
        raise DisagreementError(words)
    return words
