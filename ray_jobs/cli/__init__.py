"""The command line `emoji-ldm`: what is typed, and what is printed. What commands do is elsewhere."""
