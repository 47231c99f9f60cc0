"""Disturbs a real job at random, from a seed, and checks that nothing is lost: `python -m tests.chaos --seed 1 --faults 20`."""
