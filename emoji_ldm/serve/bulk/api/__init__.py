"""The HTTP routes of bulk jobs: emoji sets, and OpenAI's files and batches over the same jobs."""
