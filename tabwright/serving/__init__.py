"""Models over HTTP: the Open Inference Protocol, rows as JSON, and a page to type a row into."""
