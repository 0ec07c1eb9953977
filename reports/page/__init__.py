"""The page: one HTML file with tables, figures, verdicts and provenance."""
