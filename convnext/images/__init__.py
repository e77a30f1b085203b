"""Images of uint8 in, images of uint8 out: files decoded, resampled, augmented."""
