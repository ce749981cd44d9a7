"""What `jobs.atlas` is told, and the page that it writes."""
