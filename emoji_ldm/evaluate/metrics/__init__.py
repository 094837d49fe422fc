"""Pure functions on pictures and features, one idea each; none of them knows the store or a model."""
