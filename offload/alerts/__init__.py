"""Alerts on observed traffic in the EVE JSON format."""
