"""Damaged and hostile input, made at random from a seed, and a runner that watches what reading it does."""
