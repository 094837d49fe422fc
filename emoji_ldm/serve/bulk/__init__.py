"""Bulk jobs: emoji sets of up to 50,000 prompts, and OpenAI's Batch interface over the same jobs."""
