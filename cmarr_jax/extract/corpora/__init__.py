"""Readers of the official releases: labels, transcripts, speakers and files, nothing decoded."""
