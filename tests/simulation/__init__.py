"""The delivery path in a simulated world: real code between a simulated broker, store, clock and master."""
