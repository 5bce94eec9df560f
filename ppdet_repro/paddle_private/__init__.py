"""All uses of Paddle's private interfaces.

Private means: `paddle._C_ops`, `paddle.base`, attributes of Paddle's objects that start with an underscore, and the
protobuf messages of saved programs. Paddle changes them between versions without notice. No module outside this
folder uses them; `tests/test_imports.py` checks the syntax trees.
"""
