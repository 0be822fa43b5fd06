"""Tables larger than memory: chunks, the first pass, encoded rows on disk."""
