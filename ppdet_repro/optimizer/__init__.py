"""Learning rates, optimizers, training phases and the moving average of weights."""
