"""A Litestar app with the pool mounted; its keys and teams come from the environment."""
