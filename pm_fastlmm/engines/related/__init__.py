"""Effects with a known relation as random variables, for models with any likelihood."""
