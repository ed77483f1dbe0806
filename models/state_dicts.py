"""Convert state dicts of other programs: nested in a table, with prefixes of wrappers, or in another precision.

The functions append a phrase about each change to a list ``notes``, which the caller can log.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

PRECISIONS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_WRAPPERS: Final = ("module", "_orig_mod")
"""Prefixes that DataParallel and torch.compile add to the names of weights."""

_USUAL_NAMES: Final = ("state_dict", "model_state_dict", "model")
"""Entries in which programs save a state dict. If a table has several of them, the first one here is used."""

_OURS: Final = {"format_version", "input_transform"}
_WEIGHTS: Final = (".weight", ".bias")
_DEEPEST: Final = 4

Table = Mapping[str, Any]


def is_ours(table: Table) -> bool:
    """Return whether a table is a checkpoint of the toolkit, complete or damaged, and not a plain state dict."""
    return bool(_OURS & table.keys())


def unnest(content: Table, notes: list[str]) -> Table:
    """Return the table in a file's content that is a state dict or a checkpoint of the toolkit.

    Args:
        content: the file's outermost table.
        notes: gets a phrase if the weights are in an entry of that table.

    Raises:
        ValueError: several entries hold weights, and none has a usual name.
    """
    table, entries = content, list[str]()
    while not is_ours(table):
        nested = [key for key, value in table.items() if _holds_weights(value)]
        entry = next((name for name in _USUAL_NAMES if name in nested), nested[0] if nested else None)
        if entry is None:
            break
        if len(nested) > 1 and entry not in _USUAL_NAMES:
            raise ValueError(f"holds two networks, {nested[0]!r} and {nested[1]!r}. Save the state dict of one alone.")
        entries.append(entry)
        table = table[entry]
    if entries:
        notes.append(f"took the weights from its entry {'/'.join(entries)!r}, ignored its other entries")
    return table


def _holds_weights(value: object, depth: int = _DEEPEST) -> bool:
    if not isinstance(value, dict) or not depth:
        return False
    return any(
        isinstance(key, str) and (key in _OURS or key.endswith(_WEIGHTS) or _holds_weights(part, depth - 1))
        for key, part in value.items()
    )


def remove_prefixes(state: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Return the weights; remove from their names the prefixes of wrappers, and any prefix that all names share.

    Raises:
        ValueError: two weights would get the same name.
    """
    removed = [wrapper for wrapper in _WRAPPERS if any(wrapper in key.split(".") for key in state)]
    names = [[part for part in key.split(".") if part not in _WRAPPERS] for key in state]
    # In the networks here, names share no prefix: a calibrated one has ``temperature.`` beside ``model.``.
    while len({parts[0] for parts in names}) == 1 and all(len(parts) > 1 for parts in names):
        removed.append(names[0][0])
        names = [parts[1:] for parts in names]
    new = dict(zip((".".join(parts) for parts in names), state.values(), strict=True))
    prefixes = " and ".join(repr(f"{part}.") for part in removed)
    if len(new) < len(state):
        raise ValueError(f"holds weights twice, with and without {prefixes}. Save them once.")
    if removed:
        notes.append(f"removed {prefixes} from the names of the weights")
    return new


def convert_to_float32(state: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Return weights of any of ``PRECISIONS`` as float32."""
    others = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()} - {"float32"})
    if others:
        notes.append(f"converted the weights from {' and '.join(others)} to float32")
    return {key: value.to(torch.float32) for key, value in state.items()}
