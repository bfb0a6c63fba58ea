"""The HTTP door: parse, authorise, call a use case, answer."""
