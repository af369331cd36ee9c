"""One module a dialect: a body becomes a Dialogue, events of an answer become its own."""
