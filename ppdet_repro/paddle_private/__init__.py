"""Everything that this package takes from Paddle's private surface.

Private here means: `paddle._C_ops`, `paddle.base`, attributes of Paddle's objects that start with an underscore, and
the protobuf description of saved programs. These change between versions of Paddle without notice, so nothing outside
this folder touches them; `tests/test_imports.py` checks that from the syntax trees.
"""
