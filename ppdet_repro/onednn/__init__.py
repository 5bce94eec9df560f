"""The layers of a network on channels-last feature maps, forward and backward, by oneDNN's C API.

Paddle's own convolutions on the CPU are im2col and a matrix product, and most of its other operators use one thread.
Paddle's wheels for x86 contain oneDNN for inference; this package calls that library for training.
"""
