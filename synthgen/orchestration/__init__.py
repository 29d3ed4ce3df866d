"""Prefect's server, the user's settings of it, profiles of workers, timetables."""
