"""Masks from boxes."""
