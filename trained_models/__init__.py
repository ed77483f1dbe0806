"""List and download the published checkpoints."""
