"""Exported models outside Paddle: the runtimes that run them, and from their outputs to detections in numpy."""
