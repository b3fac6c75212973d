"""The `fti` command: thin, every verb calls one function."""
