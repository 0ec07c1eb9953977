"""Results turned into tables, figures and a page, beside the published numbers; nothing here imports torch."""
