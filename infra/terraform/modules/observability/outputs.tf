output "log_key_arn" {
  description = "Key that encrypts log groups."
  value       = aws_kms_key.logs.arn
}

output "remote_write" {
  description = "URL for Prometheus's remoteWrite; empty without `metrics`."
  value       = var.metrics ? "${aws_prometheus_workspace.this[0].prometheus_endpoint}api/v1/remote_write" : ""
}
