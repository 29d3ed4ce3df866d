"""Formats that others load, one a file."""
