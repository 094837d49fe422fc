# Redis for the service's head (GCS fault tolerance). What Ray needs of it:
# - one shard, cluster mode off: Ray asks who is the primary and follows it, it does not follow MOVED from shard to shard;
#   so no serverless cache either (ray-project/ray#44965, #52433);
# - no eviction: a lost key is a lost actor;
# - the address as rediss://HOST:6379, and RAY_REDIS_CA_CERT naming the system's certificates, or the handshake ends with
#   CERTIFICATE_VERIFY_FAILED (ray-project/ray#41161);
# - user `default` with the password, which may call INFO (ray-project/ray#63037).
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

resource "aws_kms_key" "redis" {
  description             = "Redis of ${var.name} and its password"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = var.key_policy
}

# Made by AWS and never shown. It is in Terraform's state too, as the cache takes it no other way: the state is as secret
# as the password, see ../../bootstrap.
data "aws_secretsmanager_random_password" "redis" {
  password_length     = 64
  exclude_punctuation = true # the cache takes few of them
}

resource "aws_secretsmanager_secret" "redis" {
  #checkov:skip=CKV2_AWS_57:rotated by hand (infra/runbooks/eks.md), as Ray reads the password only when a head starts
  name                    = "${var.name}/redis"
  description             = "Password of Redis; becomes the Secret `redis` of namespace emoji-ldm"
  kms_key_id              = aws_kms_key.redis.arn
  recovery_window_in_days = 7
}

resource "aws_secretsmanager_secret_version" "redis" {
  secret_id     = aws_secretsmanager_secret.redis.id
  secret_string = data.aws_secretsmanager_random_password.redis.random_password
  lifecycle {
    ignore_changes = [secret_string] # AWS draws another one at every look; only -replace takes it
  }
}

resource "aws_security_group" "redis" {
  name        = "${var.name}-redis"
  description = "Redis from the nodes and Pods of the cluster"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-redis" }
}

resource "aws_vpc_security_group_ingress_rule" "redis" {
  security_group_id            = aws_security_group.redis.id
  description                  = "Redis from nodes and Pods"
  referenced_security_group_id = var.client_security_group
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}

resource "aws_elasticache_subnet_group" "redis" {
  name        = var.name
  description = "Subnets without a way to the internet"
  subnet_ids  = var.subnets
}

resource "aws_elasticache_parameter_group" "redis" {
  name        = var.name
  description = "Nothing is evicted"
  family      = "redis7"
  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }
}

resource "aws_elasticache_replication_group" "redis" {
  replication_group_id       = var.name
  description                = "State of the Ray head that serves"
  engine                     = "redis"
  engine_version             = "7.1"
  node_type                  = var.node_type
  num_cache_clusters         = 2
  automatic_failover_enabled = true
  multi_az_enabled           = true
  port                       = 6379
  parameter_group_name       = aws_elasticache_parameter_group.redis.name
  subnet_group_name          = aws_elasticache_subnet_group.redis.name
  security_group_ids         = [aws_security_group.redis.id]

  at_rest_encryption_enabled = true
  kms_key_id                 = aws_kms_key.redis.arn
  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  auth_token                 = aws_secretsmanager_secret_version.redis.secret_string
  auth_token_update_strategy = "ROTATE" # the old password holds until the next one: a running head keeps its connection

  auto_minor_version_upgrade = true
  maintenance_window         = "sun:03:00-sun:04:00"
  snapshot_retention_limit   = 1
  snapshot_window            = "01:00-02:00"
}
