"""What is kept, and why: records as columns, reasons, verdicts, reviews, numbers."""
