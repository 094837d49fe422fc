# Checks the store, the registry and Redis one by one. Needs the AWS provider, but no account.
mock_provider "aws" {
  mock_resource "aws_secretsmanager_secret_version" {
    defaults = { secret_string = "0123456789abcdefghijklmnopqrstuvwxyz" }
  }
  mock_data "aws_secretsmanager_random_password" {
    defaults = { random_password = "0123456789abcdefghijklmnopqrstuvwxyz" }
  }
}

variables {
  bucket         = "emoji-ldm-123456789012-store"
  access_bucket  = "emoji-ldm-123456789012-access"
  store_folder   = "store"
  lifecycle_days = { tables = { noncurrent = 30 }, sets = { noncurrent = 7, current = 90 } }
  bucket_policy  = "{\"Version\": \"2012-10-17\", \"Statement\": []}"
  key_policy     = "{\"Version\": \"2012-10-17\", \"Statement\": []}"
}

run "replaced_rows_stay_a_month_and_only_sets_end_by_age" {
  command = plan
  module {
    source = "./modules/storage"
  }
  assert {
    condition = { for rule in aws_s3_bucket_lifecycle_configuration.store.rule : rule.id => [
      one([for filter in rule.filter : filter.prefix]), one([for old in rule.noncurrent_version_expiration : old.noncurrent_days]), one([for end in rule.expiration : end.days])
      ] if rule.id != "uploads-that-never-ended" } == {
      tables = ["store/tables/", 30, null]
      sets   = ["store/sets/", 7, 90]
    }
    error_message = "rules of the lifecycle"
  }
  assert {
    condition     = aws_s3_bucket_versioning.store.versioning_configuration[0].status == "Enabled"
    error_message = "versions are kept"
  }
  assert {
    condition = alltrue([for block in [aws_s3_bucket_public_access_block.store, aws_s3_bucket_public_access_block.access] :
    block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets])
    error_message = "a bucket could be made public"
  }
}

run "checkpoints_that_end_by_age_are_refused" {
  command = plan
  module {
    source = "./modules/storage"
  }
  variables {
    lifecycle_days = { checkpoints = { noncurrent = 7, current = 30 } }
  }
  expect_failures = [var.lifecycle_days]
}

run "a_tag_means_one_image_for_ever" {
  command = plan
  module {
    source = "./modules/registry"
  }
  variables {
    name   = "emoji-ldm"
    images = ["emoji-ldm-gpu"]
    keep   = 20
  }
  assert {
    condition     = aws_ecr_repository.image["emoji-ldm-gpu"].image_tag_mutability == "IMMUTABLE" && aws_ecr_repository.image["emoji-ldm-gpu"].image_scanning_configuration[0].scan_on_push
    error_message = "tags can be moved, or images come unseen"
  }
}

run "redis_is_what_ray_needs" {
  command = plan
  module {
    source = "./modules/redis"
  }
  variables {
    name                  = "emoji-ldm"
    vpc_id                = "vpc-a"
    subnets               = ["subnet-a", "subnet-b"]
    client_security_group = "sg-a"
    node_type             = "cache.t4g.small"
  }
  assert {
    condition     = aws_elasticache_replication_group.redis.transit_encryption_mode == "required" && aws_elasticache_replication_group.redis.multi_az_enabled && aws_elasticache_replication_group.redis.num_cache_clusters == 2
    error_message = "TLS, and a second node in another zone"
  }
  assert {
    condition     = one(aws_elasticache_parameter_group.redis.parameter).value == "noeviction"
    error_message = "a lost key is a lost actor"
  }
}
