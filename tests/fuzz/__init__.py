"""What commands do with files that are damaged at random: see `tests/fuzz/__main__.py`."""
