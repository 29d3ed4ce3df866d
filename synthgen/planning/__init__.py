"""What is made: jobs, rounds, layouts and prompts."""
