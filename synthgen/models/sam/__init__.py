"""Segment Anything, in the official implementation `segment_anything`."""
