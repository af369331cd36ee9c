"""The markup of models: text in, reasoning, content and tool calls out. Knows no API."""
