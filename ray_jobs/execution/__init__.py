"""What runs jobs on Ray: a local or joined cluster, shards committed exactly once, groups of training workers."""
