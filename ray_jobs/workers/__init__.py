"""The actors of the stages: classes that Ray builds once per actor and calls once per shard."""
