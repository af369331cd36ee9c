"""Many requests from a file, in OpenAI's batch format, answered by the server's app in process."""
