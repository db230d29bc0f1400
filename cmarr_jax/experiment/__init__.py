"""From configs to what one program trains, and to what it leaves behind."""
