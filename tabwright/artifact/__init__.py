"""Model files that can be trusted: atomic writes, strict JSON, closed-schema reading."""
