"""Stage: draw the paper's figures."""
