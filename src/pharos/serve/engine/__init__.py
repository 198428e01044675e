"""The engine: many requests share one model, a step at a time."""
