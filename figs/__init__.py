"""Stage: the paper's figures."""
