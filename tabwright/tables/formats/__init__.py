"""Sheets and JSON lines as frames; what files of every format have to hold."""
