"""What the edge does with events: exit 1, exit 2, verdicts, and the offload CSV."""
