"""The HTTP surface in OpenAI's shape, without Ray: what a request may say, and the answers."""
