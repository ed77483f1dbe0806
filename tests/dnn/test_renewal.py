import numpy as np
import pytest
import torch

from calibration.temperature import fit_by_likelihood
from dnn.renewal import RenewableNetwork, RenewalSettings, answer, count_draws, draw_epoch, renew
from tests.evaluations.small_months import rows_of
from tests.networks import calibrated_network
from utils.labelled_rows import LabelledRows


def month(number: int, rows: int = 60) -> LabelledRows:
    return LabelledRows(f"2016_{number:02}", *rows_of(number, rows))


def test_older_months_are_drawn_less_often() -> None:
    assert count_draws([100, 100, 50], 0.5) == [25, 50, 50]
    assert count_draws([100], 0.5) == [100]


def test_an_epoch_draws_each_row_of_a_month_at_most_once_and_another_epoch_draws_others() -> None:
    sizes, draws = [100, 100, 50], [25, 50, 50]
    first, again, other = (draw_epoch(sizes, draws, 1, epoch) for epoch in (0, 0, 1))
    assert (first == again).all() and sorted(first) != sorted(other)
    assert len(set(first.tolist())) == len(first) == 125
    assert np.histogram(first, [0, 100, 200, 250])[0].tolist() == draws


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AlexNetWithExits", "MobileNetV2WithExits"])
def test_a_renewed_network_is_another_one_that_has_learned_and_the_old_one_is_as_it_was(name: str) -> None:
    champion = calibrated_network(name)
    before = {key: value.clone() for key, value in champion.state_dict().items()}
    months, held = [month(1), month(2)], month(3)
    settings = RenewalSettings(seed=1, epochs=3, decay=1.0)
    steps: list[int] = []
    challenger = renew(champion, months, held, fit_by_likelihood, settings, steps.append)
    assert sum(steps) == 3 * 120
    assert all(torch.equal(value, before[key]) for key, value in champion.state_dict().items())
    assert not any(parameter.requires_grad for parameter in challenger.parameters())

    def count_errors(network: torch.nn.Module) -> int:
        found = [answer(network, rows) for rows in months]  # type: ignore[arg-type]
        return sum(int((one.prediction_2 != one.labels).sum()) for one in found)

    assert count_errors(challenger) < count_errors(champion)


def test_a_network_cannot_be_renewed_without_rows() -> None:
    network = calibrated_network("MobileNetV2WithExits")
    nothing = month(1).take(np.arange(0))
    for months, held in (([nothing], month(2)), ([month(1)], nothing)):
        with pytest.raises(ValueError, match="rows to train on"):
            renew(network, months, held, fit_by_likelihood, RenewalSettings())


@pytest.mark.slow
def test_a_renewable_network_answers_with_its_costs_and_repeats_a_renewal_exactly() -> None:
    costs = (1e-5, 2e-5, 3e-5, 4e-5)
    network = RenewableNetwork(
        calibrated_network("MobileNetV2WithExits"),
        "mobilenet",
        "1",
        costs,
        fit_by_likelihood,
        RenewalSettings(epochs=1),
    )
    rows = month(3)
    found = network.answer(rows)
    assert (found.labels == rows.labels).all()
    assert (found.time_segment_1[0], found.time_exit_2[-1]) == (1e-5, 4e-5)
    once, again = (network.renew([month(1), month(2)], rows) for _ in range(2))
    assert (once.name, once.seed) == ("mobilenet", "1")
    assert (once.answer(rows).certainty_2 == again.answer(rows).certainty_2).all()
    assert (once.answer(rows).certainty_2 != found.certainty_2).any()
