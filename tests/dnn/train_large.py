"""Train a small network for an epoch on a month, and print how much memory of its own the process needed for it.

Run:
    python -m tests.dnn.train_large MONTH [SHRINK]

Prints JSON: bytes of the features, the folder that they are kept in, the losses, and by how much the anonymous memory
(RssAnon of /proc/self/status: what cannot be dropped) grew at its peak since everything was imported and used once.
What bounds it is divided by SHRINK, so that a small month shows the same.
"""

import json
import re
import sys
import threading
import time
from pathlib import Path

import utils.dataset_chunks
import utils.feature_buffer
from dnn.training import Trainer, TrainingSettings, evaluate, split_rows
from models.preprocessing import fit_quantile_transform
from tests.models import small
from tests.networks import SAMPLE
from tests.scripts import TRAIN, load_script
from utils.csv_text import parse_number
from utils.dataset import read_all_labelled
from utils.schema import FEATURES


def anonymous_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


class Peak(threading.Thread):
    """Watches the anonymous memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self.over = False

    def run(self) -> None:
        while not self.over:
            self.bytes = max(self.bytes, anonymous_bytes())
            time.sleep(0.005)


def train(month: Path) -> dict[str, object]:
    dataset, labels = read_all_labelled([month])
    training, held_back = split_rows(labels, 0.1, seed=1)
    network = small.with_two_exits()
    network.transform = fit_quantile_transform(load_script(TRAIN)._select_rows_to_fit(dataset, training, 1))
    trainer = Trainer(network, TrainingSettings(epochs=1, batch_size=1000, learning_rate=1e-2), len(training))
    loss = trainer.train_one_epoch(dataset.features, labels, rows=training)
    judged, _ = evaluate(network, dataset.features, labels, 0.2, held_back)
    folder = str(dataset.spooled) if dataset.spooled else None
    return {"bytes": dataset.features.nbytes, "spooled": folder, "losses": [loss, judged]}


def main(month: Path, shrink: int) -> None:
    train(SAMPLE)
    next(utils.dataset_chunks.open_dataset(month).read_chunks(dict.fromkeys(FEATURES, parse_number)))  # loads pyarrow
    utils.feature_buffer.MOST_IN_MEMORY //= shrink  # type: ignore[misc]
    utils.dataset_chunks.CHUNK_ROWS //= shrink  # type: ignore[misc]
    script = load_script(TRAIN)
    vars(script)["ROWS_TO_FIT"] //= shrink
    before = anonymous_bytes()
    peak = Peak()
    peak.start()
    start = time.perf_counter()
    result = train(month)
    seconds = time.perf_counter() - start
    peak.over = True
    peak.join()
    rest = {"grown": max(peak.bytes, anonymous_bytes()) - before, "before": before, "seconds": round(seconds, 1)}
    print(json.dumps({**result, **rest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
