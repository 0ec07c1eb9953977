"""Training runs as their logs tell them: read, shown in a terminal and on a page."""
