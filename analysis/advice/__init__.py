"""What to build: the decision, plans by layer, their uncertainty, and what would help the machine."""
