"""What jobs on files are asked for, and all that can be refused before a table is read."""
