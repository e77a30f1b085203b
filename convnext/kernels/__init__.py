"""The operations a block is made of, with gradients written by hand where XLA on CPU needs them."""
