"""Stage: make certainties mean what they say, by temperature scaling of each exit."""
