output "cluster" {
  description = "The EKS cluster."
  value       = var.name
}

output "node_role" {
  description = "Role of the nodes, as k8s/components/karpenter/class.yaml names it."
  value       = "${var.name}-node"
}

output "karpenter" {
  description = "Karpenter's role and the queue that tells it of interruptions."
  value       = "${var.name}-karpenter"
}

output "store" {
  description = "Bucket of data sets, checkpoints and emoji sets."
  value       = "${local.unique}-store"
}

output "access_logs" {
  description = "Bucket of the store's access logs."
  value       = "${local.unique}-access"
}

output "state" {
  description = "Bucket of Terraform's state."
  value       = "${local.unique}-state"
}

output "discovery" {
  description = "The tag by which Karpenter finds subnets and the security group."
  value       = { "karpenter.sh/discovery" = var.name }
}

output "tags" {
  description = "Tags of everything."
  value       = merge(var.tags, { project = var.name, "managed-by" = "terraform" })
}
