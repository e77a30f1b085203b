"""Weights of other projects and of runs, read and written."""
