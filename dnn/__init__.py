"""Stage: train the networks, and run a trained one over a dataset."""
