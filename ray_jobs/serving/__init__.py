"""The HTTP service on Ray Serve: deployments, replicas of models, and the routing between them."""
