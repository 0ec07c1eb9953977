"""What is measured: each module prints a ratio against a plain reference written beside it, in one run."""
