"""The tests of Tabwright."""
