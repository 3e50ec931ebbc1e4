"""AI-REML over an abstract objective: numbers only."""
