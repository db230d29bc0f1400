"""What lies in a results folder: written, read again, compared, drawn, shown as a page."""
