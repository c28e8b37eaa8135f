"""The commands: one module each, with `run(config) -> figures`."""
