"""Fetching: image URLs -> canonical images, each requested once, within limits on time, size and concurrency."""
