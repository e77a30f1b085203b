"""Weights on test sets."""
