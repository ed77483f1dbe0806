"""Alerts on observed traffic, as EVE JSON."""
