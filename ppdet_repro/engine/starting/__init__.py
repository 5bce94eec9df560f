"""From a folder of labelled pictures to a config: what `ppdet-repro init` does."""
