"""The HTTP service in the shape of OpenAI's Images API: request schemas, routes, authentication, without Ray."""
