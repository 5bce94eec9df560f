"""From a dataset to batches: the order of samples, worker processes, and collation."""
