"""Defaults that the command line shows and the library uses; this module imports the standard library only."""

from typing import Final

EPOCHS: Final = 2
"""Draws of rows to train on when a network is renewed; it was trained before, so that few are enough."""

REJECT_COST: Final = 0.1
"""Loss of a rejected event. It is worth rejecting an event whose decision is wrong with a higher probability."""
