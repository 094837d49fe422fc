output "store" {
  description = "ServiceAccount -> its rights in the bucket, as JSON."
  value       = local.store
}

output "karpenter" {
  description = "Karpenter's rights, as JSON, in two documents."
  value       = { machines = local.karpenter_machines, rest = local.karpenter_rest }
}

output "pod_trust" {
  description = "namespace/ServiceAccount -> who may use its role, as JSON: its Pods."
  value       = local.pod_trust
}

output "service_trust" {
  description = "Service of AWS -> who may use a role of it, as JSON."
  value       = local.service_trust
}

output "bucket" {
  description = "Policy of the store's bucket, as JSON."
  value       = local.bucket_policy
}

output "queue" {
  description = "Policy of Karpenter's queue, as JSON."
  value       = local.queue_policy
}

output "key" {
  description = "Policy of a key that this account's IAM decides about, as JSON."
  value       = local.key_policy
}

output "log_key" {
  description = "Policy of the key that encrypts log groups, as JSON."
  value       = local.log_key_policy
}

output "tables" {
  description = "Tables that the patterns know."
  value       = local.data.tables
}
