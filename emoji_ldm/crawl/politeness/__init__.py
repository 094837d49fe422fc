"""politeness."""
