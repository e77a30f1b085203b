"""What a block computes, and its gradients: the layers that XLA compiles apart."""
