"""The Linen modules."""
