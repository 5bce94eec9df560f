"""From a data set to batches: which samples, prepared by whom, put together how."""
