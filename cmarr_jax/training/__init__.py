"""The loop: one program trains, validates and tests all runs. It knows no system and no file."""
