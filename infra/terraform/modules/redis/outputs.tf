output "address" {
  description = "Address as Ray takes it (gcsFaultToleranceOptions.redisAddress)."
  value       = "rediss://${aws_elasticache_replication_group.redis.primary_endpoint_address}:6379"
}

output "secret" {
  description = "Name of the password in Secrets Manager."
  value       = aws_secretsmanager_secret.redis.name
}
