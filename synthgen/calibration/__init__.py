"""How well filters catch planted faults."""
