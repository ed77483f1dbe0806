"""What two or more stages agree on: schema, errors, files, the decision rule, metrics."""
