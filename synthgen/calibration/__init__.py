"""How well filters catch faults that were planted."""
