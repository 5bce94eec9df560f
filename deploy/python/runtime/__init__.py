"""Run exported detectors: numpy, OpenCV and an inference engine, no training code."""
