"""An HTTP server for an exported detector: a JSON API, and a page that uses it."""
