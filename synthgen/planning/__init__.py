"""What is made: a spec becomes rounds, and a round becomes jobs.

Planning is pure: the same spec, run and round give the same jobs on any machine, with any version of any library.
"""
