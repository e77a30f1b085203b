"""Programs of models for other runtimes."""
