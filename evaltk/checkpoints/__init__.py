"""Weight files: read without executing anything, claimed by one family, fetched from the catalogue."""
