"""Load tests: clients send requests at a given pace, and their results are summarized and drawn."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from offload.link.client import Client
from offload.link.protocol import RequestTemplate
from offload.networks.exits import FloatArray
from utils.classification_metrics import divide
from utils.errors import CloudUnavailableError, MessageError
from utils.plotting import new_figure, use_log_scale
from utils.stopping import Stop

ANSWERED: Final = "answered"
COLUMNS: Final = ("client", "start_seconds", "round_trip_seconds", "events", "result")
PERCENTILES: Final = (50, 90, 99)
_POLL: Final = 0.1


@dataclass(frozen=True)
class Pace:
    """The pace at which one client sends requests.

    Attributes:
        count: number of requests.
        interval: least seconds between the starts of two requests; 0: the next follows each reply at once.
    """

    count: int
    interval: float


@dataclass(frozen=True)
class RequestResult:
    """One request: its client, start and round trip in seconds, number of events, and result."""

    client: int
    start: float
    seconds: float
    events: int
    result: str


def send_requests(
    clients: Sequence[Client],
    templates: Sequence[RequestTemplate],
    events: Sequence[FloatArray],
    pace: Pace,
    stop: Stop,
    on_answer: Callable[[int], object],
) -> list[RequestResult]:
    """Have all clients send requests at the same time, one in flight for each client; return the results.

    Args:
        clients: entered clients.
        templates: one for each client.
        events: of every request of each client, features (n, 58) or activations (n, C, H, W).
        pace: the same for all clients.
        stop: ends the run early.
        on_answer: called now and then with the number of requests that have ended.
    """
    begun = time.monotonic()
    results: list[list[RequestResult]] = [[] for _ in clients]
    threads = [
        threading.Thread(target=_send_in_turn, args=(number, *own, pace, stop, begun, results[number]), daemon=True)
        for number, own in enumerate(zip(clients, templates, events, strict=True))
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not stop.is_over:
        time.sleep(_POLL)
        on_answer(sum(map(len, results)))
    return [one for each in results for one in list(each)]


def _send_in_turn(
    number: int, client: Client, template: RequestTemplate, events: FloatArray, pace: Pace, stop: Stop, begun: float,
    results: list[RequestResult],
) -> None:  # fmt: skip
    due = time.monotonic()
    for _ in range(pace.count):
        while (left := due - time.monotonic()) > 0 and not stop.requested:
            time.sleep(min(left, _POLL))
        if stop.requested:
            return
        start = time.monotonic()
        due = start + pace.interval
        failure = client.submit(template.make_request(events)).exception()
        seconds = time.monotonic() - start
        result = failure.code if isinstance(failure, CloudUnavailableError | MessageError) else ANSWERED
        results.append(RequestResult(number, start - begun, seconds, len(events), result))


def tabulate_results(results: Sequence[RequestResult]) -> pd.DataFrame:
    """Return a row for each request, in the order of their starts, with columns ``COLUMNS``."""
    rows = [(one.client, one.start, one.seconds, one.events, one.result) for one in results]
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("start_seconds", ignore_index=True)


@dataclass(frozen=True)
class Load:
    """Summary of a load test.

    Attributes:
        requests, answered: number of requests, and of those that were answered.
        events: number of events in the answered requests.
        seconds: from the first start to the last end.
        percentiles: round trips of the answered requests in seconds, by percentile; NaN if there are none.
        errors: number of the other requests by result.
    """

    requests: int
    answered: int
    events: int
    seconds: float
    percentiles: dict[int, float]
    errors: dict[str, int]

    @property
    def failures(self) -> str:
        """Results of the requests that were not answered, with counts; ``none`` if all were answered."""
        return ", ".join(f"{n} {code}" for code, n in sorted(self.errors.items())) or "none"

    def summarize(self) -> str:
        """Return the summary in two lines."""
        times = ", ".join(f"p{p} {1000 * seconds:.2f} ms" for p, seconds in self.percentiles.items())
        return (
            f"{self.requests} requests, {self.answered} answered, {self.events} events in {self.seconds:.2f} s: "
            f"{divide(self.answered, self.seconds):.1f} requests/s, {divide(self.events, self.seconds):.1f} events/s\n"
            f"round trip {times}; errors: {self.failures}"
        )


def summarize_load(table: pd.DataFrame) -> Load:
    """Return the summary of a table with columns ``COLUMNS``."""
    good = table[table["result"] == ANSWERED]
    end = (table["start_seconds"] + table["round_trip_seconds"]).max()
    seconds = float(end - table["start_seconds"].min()) if len(table) else 0.0
    times = good["round_trip_seconds"].to_numpy(np.float64)
    percentiles = {p: float(np.percentile(times, p)) if len(times) else float("nan") for p in (*PERCENTILES, 100)}
    errors = Counter(table.loc[table["result"] != ANSWERED, "result"].tolist())
    return Load(len(table), len(good), int(good["events"].sum()), seconds, percentiles, dict(errors))


def draw_load(title: str, table: pd.DataFrame) -> Figure:
    """Draw the round trips over time, and their distribution, from a table with columns ``COLUMNS``."""
    figure, (over_time, distribution) = new_figure(columns=2)
    figure.suptitle(title)
    for result, rows in table.groupby("result"):
        over_time.plot(rows["start_seconds"], 1000 * rows["round_trip_seconds"], ".", markersize=3, label=str(result))
    use_log_scale(over_time.yaxis)
    over_time.set(xlabel="time (s)", ylabel="round trip (ms)")
    over_time.legend()
    times = np.sort(1000 * table.loc[table["result"] == ANSWERED, "round_trip_seconds"].to_numpy(np.float64))
    if len(times):
        share: NDArray[np.float64] = np.arange(1, len(times) + 1) / len(times)
        distribution.step(times, share, where="post")
        for percentile in PERCENTILES:
            value = float(np.percentile(times, percentile))
            distribution.axvline(value, color="0.6", linestyle="--")
            distribution.text(value, percentile / 100 - 0.03, f" p{percentile} {value:.1f} ms", va="top")
        use_log_scale(distribution.xaxis)
    distribution.set(xlabel="round trip (ms)", ylabel="share of answered requests", ylim=(0, 1.02))
    return figure
