"""Decide events on the edge: exit 1, exit 2, verdicts, and the offload CSV."""
