"""Search for the settings that suit a table: the space, the study, the trials, the picture."""
