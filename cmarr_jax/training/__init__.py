"""The loop: one program trains, validates and tests all runs. Knows no system by name, no file."""
