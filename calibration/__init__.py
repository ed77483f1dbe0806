"""Stage: calibrate the certainties of each exit by temperature scaling."""
