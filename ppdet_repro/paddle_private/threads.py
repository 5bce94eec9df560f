"""The number of CPU threads that Paddle's operators use in this process."""

from paddle.base.core import set_num_threads as set_num_threads
