"""A small HTTP server around an exported detector: a page to try it, and a JSON API."""
