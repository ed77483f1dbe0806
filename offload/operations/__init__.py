"""What operators need of every process: logs, metrics, health."""
