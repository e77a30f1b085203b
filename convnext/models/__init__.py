"""The models, as Linen modules, and the layers they are made of."""
