"""Stage: what each exit answers on a dataset, how certain it is, and what it costs."""
