"""Deployment: exported models in the engines that run them, from images to detections, without training code."""
