"""Prefect's server, its settings and connection, profiles of workers, timetables."""
