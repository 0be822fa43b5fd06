"""CSV: bytes to text, text to records, records to frames of text."""
