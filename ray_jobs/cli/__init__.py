"""The command line `emoji-ldm`: its parsers, options and printed output."""
