"""Learning rates, optimizers and the moving average of weights."""
