"""The published checkpoints: which there are, and how to download them."""
