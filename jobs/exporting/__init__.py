"""Parts of `jobs.export`."""
