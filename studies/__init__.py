"""The studies: one file each, run by `python -m studies`. See docs/studies.md."""
