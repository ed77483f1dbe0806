"""Stage: find the Pareto front of the four thresholds by error and cost, and choose an operating point on it."""
