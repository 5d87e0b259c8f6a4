"""report.html: one file that holds all it needs, and asks nothing of any other place."""
