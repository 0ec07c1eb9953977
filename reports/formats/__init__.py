"""Tables as Markdown, CSV, HTML, LaTeX, or for a terminal."""
