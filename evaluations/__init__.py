"""Stage: measure what each exit predicts, how certain it is and what it costs, and evaluate later months."""
