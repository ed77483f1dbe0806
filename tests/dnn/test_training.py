import copy
import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss
from torch import nn
from torch.nn import functional

import dnn.training
from dnn.training import (
    Trainer,
    TrainingSettings,
    choose_batch_size,
    count_distinct_rows,
    evaluate,
    split_rows,
    weighted_cross_entropy,
)
from models.early_exit import EarlyExitNetwork
from models.preprocessing import fit_quantile_transform
from tests.models import small
from tests.networks import SAMPLE, new_network
from utils.dataset import read_labelled, to_images

SHORT = TrainingSettings(epochs=3, batch_size=100, learning_rate=1e-2)

dataset, LABELS = read_labelled(SAMPLE)
FEATURES = dataset.features


def small_trainer(settings: TrainingSettings = SHORT, dropout: float = 0.5) -> Trainer:
    network = small.with_two_exits(dropout)
    network.transform = fit_quantile_transform(FEATURES)
    return Trainer(network, settings, len(FEATURES))


def train(trainer: Trainer, epochs: int) -> list[float]:
    return [trainer.train_one_epoch(FEATURES, LABELS) for _ in range(epochs)]


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    for (name, weight), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float32 even where bfloat16 is fast, so that a plain loop can follow."""
    monkeypatch.setattr(dnn.training, "is_bfloat16_fast", lambda _device: False)


# Repeated rows, and the loss


def test_distinct_rows_are_counted_by_class() -> None:
    vectors = np.random.default_rng(0).random((3, 58), dtype=np.float32)
    rows, labels = np.array([2, 0, 2, 2, 1, 0, 2]), np.array([1, 0, 0, 1, 1, 0, 1])
    distinct, counts = count_distinct_rows(vectors[rows], labels)
    found = {tuple(vector): tuple(count) for vector, count in zip(distinct, counts, strict=True)}
    assert found == {tuple(vectors[0]): (2, 0), tuple(vectors[1]): (0, 1), tuple(vectors[2]): (1, 3)}
    assert counts.dtype == np.float32


def test_the_samples_distinct_rows_are_those_of_numpy_and_no_row_is_lost() -> None:
    distinct, counts = count_distinct_rows(FEATURES, LABELS)
    np.testing.assert_array_equal(np.unique(distinct, axis=0), np.unique(FEATURES, axis=0))
    assert len(distinct) == len(np.unique(FEATURES, axis=0))
    assert counts.sum(axis=0).tolist() == np.bincount(LABELS).tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.5])
def test_the_loss_of_single_rows_is_torchs_cross_entropy_with_label_smoothing(smoothing: float) -> None:
    logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * 5
    labels = torch.arange(50) % 2
    weights = functional.one_hot(labels).float() / len(labels)
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels)
    torch.testing.assert_close(weighted_cross_entropy(logits, weights, smoothing), expected)


def test_repeated_rows_computed_once_give_the_gradient_of_the_whole_batch() -> None:
    network = new_network("MobileNetV2WithExits").requires_grad_(True)
    rows = np.random.default_rng(0).permutation(len(FEATURES))[:80]
    features, labels = FEATURES[rows], LABELS[rows]

    def gradients(loss_of: Callable[[torch.Tensor], torch.Tensor], vectors: NDArray[np.float32]) -> list[torch.Tensor]:
        network.zero_grad()
        losses = torch.stack([loss_of(logits) for logits in network(torch.from_numpy(to_images(vectors)))])
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    distinct, counts = count_distinct_rows(features, labels)
    assert len(distinct) < 0.8 * len(features)
    weights = torch.from_numpy(counts / counts.sum())
    plain = nn.CrossEntropyLoss(label_smoothing=0.05)
    expected = gradients(lambda logits: plain(logits, torch.from_numpy(labels)), features)
    found = gradients(lambda logits: weighted_cross_entropy(logits, weights, 0.05), distinct)
    assert len(found) == len(list(network.parameters()))
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


# A run


@pytest.mark.usefixtures("in_float32")
def test_training_takes_the_steps_of_a_plain_loop_with_the_recipe_written_out() -> None:
    # Strong enough for every part of the recipe to show in the weights.
    recipe = TrainingSettings(
        epochs=6, batch_size=len(FEATURES), learning_rate=0.05, weight_decay=0.5, gradient_clip=0.2
    )
    trainer = small_trainer(recipe, dropout=0)
    network = copy.deepcopy(trainer.network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.05, weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=6)
    images, labels = torch.from_numpy(to_images(FEATURES)), torch.from_numpy(LABELS)
    expected, norms, smoothing = [], [], recipe.label_smoothing
    for _ in range(6):
        optimiser.zero_grad()
        loss = sum(nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing) for logits in network(images))
        assert isinstance(loss, torch.Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        norms.append(float(nn.utils.clip_grad_norm_(network.parameters(), 0.2)))
        optimiser.step()
        schedule.step()
        expected.append(loss.item())
    assert max(norms) > 0.2  # some steps are clipped
    assert train(trainer, 6) == pytest.approx(expected, rel=1e-5)
    for weight, other in zip(trainer.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-4)


def test_the_loss_falls_and_both_exits_learn_the_sample() -> None:
    trainer = small_trainer(replace(SHORT, epochs=8))
    losses = train(trainer, 8)
    # Smoothed labels keep the loss of two exits above 0.65.
    assert losses[-1] < 0.8 * losses[0]
    loss, accuracies = evaluate(trainer.network, FEATURES, LABELS)
    assert loss < losses[0]
    assert min(accuracies) > 0.05 + np.bincount(LABELS).max() / len(LABELS)


def test_a_seed_repeats_a_run_bit_for_bit() -> None:
    first, second = small_trainer(), small_trainer()
    losses = train(first, 3)
    torch.rand(17)  # what else draws random numbers between must not matter
    assert train(second, 3) == losses
    assert_same_weights(second.network, first.network)


def test_another_seed_gives_another_run() -> None:
    first, second = small_trainer(), small_trainer(replace(SHORT, seed=2))
    assert train(first, 1) != train(second, 1)


@pytest.mark.parametrize("epochs_before", [1, 2])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(epochs_before: int) -> None:
    uninterrupted, left = small_trainer(), small_trainer()
    losses = train(uninterrupted, 3)
    train(left, epochs_before)
    torch.save(left.state(), stream := io.BytesIO())
    stream.seek(0)
    resumed = small_trainer()
    torch.nn.init.zeros_(resumed.network.get_parameter("exits.0.weight"))  # all is restored
    resumed.restore(torch.load(stream, weights_only=True))
    assert resumed.epoch == epochs_before
    assert train(resumed, 3 - epochs_before) == losses[epochs_before:]
    assert_same_weights(resumed.network, uninterrupted.network)


@pytest.mark.parametrize(
    "change", [{"epochs": 4}, {"batch_size": 50}, {"learning_rate": 2e-2}, {"seed": 2}, {"label_smoothing": 0.0}]
)
def test_a_run_with_other_settings_cannot_be_resumed(change: dict[str, float]) -> None:
    state = small_trainer().state()
    with pytest.raises(ValueError, match="settings or data differ"):
        small_trainer(replace(SHORT, **change)).restore(state)  # type: ignore[arg-type]


def test_a_run_on_other_rows_cannot_be_resumed() -> None:
    state = small_trainer().state()
    with pytest.raises(ValueError, match="settings or data differ"):
        Trainer(small.with_two_exits(), SHORT, len(FEATURES) - 1).restore(state)


def test_training_and_progress_count_every_row_once_per_epoch() -> None:
    told = list[int]()
    small_trainer(replace(SHORT, batch_size=300)).train_one_epoch(FEATURES, LABELS, told.append)
    assert told == [300, 300, 100]


def test_a_run_may_be_a_single_step() -> None:
    trainer = small_trainer(TrainingSettings(epochs=1, batch_size=10_000, learning_rate=1e-2))
    (loss,) = train(trainer, 1)
    assert math.isfinite(loss)


def test_a_single_exit_is_trained_by_the_same_loop() -> None:
    torch.manual_seed(0)
    trainer = Trainer(small.SingleExit(), SHORT, len(FEATURES))
    losses = train(trainer, 3)
    assert losses[-1] < losses[0]
    assert len(evaluate(trainer.network, FEATURES, LABELS)[1]) == 1


def test_evaluation_is_the_loss_and_accuracy_of_sklearn_without_dropout() -> None:
    network = small.with_two_exits().train()
    loss, accuracies = evaluate(network, FEATURES, LABELS)
    with torch.no_grad():
        exits = [
            logits.double().softmax(dim=1).numpy() for logits in network.eval()(torch.from_numpy(to_images(FEATURES)))
        ]
    assert loss == pytest.approx(sum(log_loss(LABELS, probabilities) for probabilities in exits), rel=1e-5)
    expected = [accuracy_score(LABELS, probabilities.argmax(axis=1)) for probabilities in exits]
    assert accuracies == pytest.approx(expected)
    smoothed = np.where(np.eye(2)[LABELS] == 1, 0.9, 0.1)
    cross_entropy = sum(-(smoothed * np.log(probabilities)).sum(axis=1).mean() for probabilities in exits)
    assert evaluate(network, FEATURES, LABELS, 0.2)[0] == pytest.approx(cross_entropy, rel=1e-5)
    assert isinstance(network, EarlyExitNetwork)


# Rows to hold back, rows a step


@given(
    labels=st.lists(st.integers(0, 1), min_size=4, max_size=200).map(np.array),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_same_share_of_each_class_is_held_back(labels: NDArray[np.int64], share: float, seed: int) -> None:
    try:
        training, held_back = split_rows(labels, share, seed)
    except ValueError:
        counts = [share * (labels == label).sum() for label in (0, 1)]
        assert sum(map(round, counts)) in {0, len(labels)}
        return
    assert sorted([*training, *held_back]) == list(range(len(labels)))
    for label in (0, 1):
        assert abs((labels[held_back] == label).sum() - share * (labels == label).sum()) <= 0.5


def test_a_seed_repeats_a_split_and_another_one_gives_another() -> None:
    first, again, other = (split_rows(LABELS, 0.1, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(("rows", "share"), [(2, 0.1), (2, 0.9), (1, 0.5)])
def test_a_split_that_leaves_no_rows_is_refused(rows: int, share: float) -> None:
    with pytest.raises(ValueError, match=r"leave \d to train on"):
        split_rows(np.arange(rows) % 2, share, 1)


@pytest.mark.parametrize(
    ("batch_size", "rows", "expected"), [(1000, 45_000, 1000), (1000, 36_000, 1000), (1000, 630, 17), (10, 630, 10)]
)
def test_the_batch_size_is_lowered_if_an_epoch_would_have_too_few_steps(
    batch_size: int, rows: int, expected: int
) -> None:
    assert choose_batch_size(batch_size, rows) == expected


def test_an_epoch_has_at_least_25_steps_or_one_per_row() -> None:
    for rows in range(1, 500):
        steps = math.ceil(rows / choose_batch_size(1000, rows))
        assert steps >= min(25, rows)
