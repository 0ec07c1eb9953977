"""The subjects of `evaltk score`, one file each. The folder is the registry."""
