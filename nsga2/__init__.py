"""Stage: choose the four thresholds, by multi-objective search on error and cost."""
