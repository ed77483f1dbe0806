"""Networks as edge and worker compute them: exits, cache, tuning."""
