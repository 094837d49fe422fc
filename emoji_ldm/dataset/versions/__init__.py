"""The history of a store: named points, branches, and commands that compare, bring back, join or delete versions."""
