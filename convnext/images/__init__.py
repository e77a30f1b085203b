"""Images of uint8: decoded from files, resampled and augmented."""
