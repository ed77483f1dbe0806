"""State dicts as other programs save them: nested in a table, with the prefixes of wrappers, in another precision.

What is changed on the way to a published state dict is told in notes, one sentence each, for the caller to show.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

PRECISIONS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_WRAPPERS: Final = ("module", "_orig_mod")
"""What DataParallel and torch.compile put into the names of weights, in front of them or in their middle."""

_USUAL_NAMES: Final = ("state_dict", "model_state_dict", "model")
"""Entries that programs keep a state dict in; of several, the first is the network itself."""

_OURS: Final = {"format_version", "input_transform"}
_WEIGHTS: Final = (".weight", ".bias")
_DEEPEST: Final = 4

Table = Mapping[str, Any]


def is_ours(table: Table) -> bool:
    """Return whether a table is a checkpoint of ours, whole or damaged, and no plain state dict."""
    return bool(_OURS & table.keys())


def unnested(content: Table, notes: list[str]) -> Table:
    """Return the table in a file that is a state dict, or a checkpoint of ours.

    Args:
        content: of the file.
        notes: gets a sentence where the weights stand in an entry beside others.

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
            raise ValueError(f"holds two networks, {nested[0]!r} and {nested[1]!r}; save the state dict of one alone")
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


def renamed(state: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Return weights under their names without the prefixes of wrappers, or one that all of them share.

    Raises:
        ValueError: two weights would get the same name.
    """
    removed = [wrapper for wrapper in _WRAPPERS if any(wrapper in key.split(".") for key in state)]
    names = [[part for part in key.split(".") if part not in _WRAPPERS] for key in state]
    # No network of ours has a first part that all its names share; a calibrated one has temperatures beside ``model.``.
    while len({parts[0] for parts in names}) == 1 and all(len(parts) > 1 for parts in names):
        removed.append(names[0][0])
        names = [parts[1:] for parts in names]
    new = dict(zip((".".join(parts) for parts in names), state.values(), strict=True))
    prefixes = " and ".join(repr(f"{part}.") for part in removed)
    if len(new) < len(state):
        raise ValueError(f"holds weights twice, with and without {prefixes}; save them once")
    if removed:
        notes.append(f"removed {prefixes} from the names of the weights")
    return new


def in_float32(state: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Return weights of any of ``PRECISIONS`` as float32."""
    others = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()} - {"float32"})
    if others:
        notes.append(f"converted the weights from {' and '.join(others)} to float32")
    return {key: value.to(torch.float32) for key, value in state.items()}
