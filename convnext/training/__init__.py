"""What an update is: the step, the optimizer, losses, metrics, and what is mixed and erased."""
