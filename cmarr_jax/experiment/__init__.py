"""From configs to what one program trains, and to the results that it writes."""
