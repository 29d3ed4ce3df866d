"""Measures of images and instances, one a file."""
