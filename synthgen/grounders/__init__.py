"""Which object is where."""
