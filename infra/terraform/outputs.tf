output "cluster_name" {
  description = "Name of the cluster, for the chart of Karpenter (settings.clusterName)."
  value       = module.cluster.name
}

output "interruption_queue" {
  description = "Queue of interruptions, for the chart of Karpenter (settings.interruptionQueue)."
  value       = module.karpenter.queue
}

output "kubeconfig" {
  description = "Command that lets kubectl reach the cluster."
  value       = "aws eks update-kubeconfig --region ${var.region} --name ${module.cluster.name}"
}

output "region" {
  description = "Region of the bucket and of everything else."
  value       = var.region
}

output "bucket" {
  description = "Bucket of the store."
  value       = module.storage.bucket
}

output "store" {
  description = "The store, as the configuration names it."
  value       = "s3://${module.storage.bucket}/${var.store_folder}"
}

output "registry" {
  description = "Host of the registry, for docker login."
  value       = split("/", values(module.registry.repositories)[0])[0]
}

output "repositories" {
  description = "Image -> where it is pushed to."
  value       = module.registry.repositories
}

output "redis_address" {
  description = "Address of Redis, as Ray takes it."
  value       = module.redis.address
}

output "redis_secret" {
  description = "Name of Redis's password in Secrets Manager."
  value       = module.redis.secret
}

output "remote_write" {
  description = "URL for Prometheus's remoteWrite; empty without managed_prometheus."
  value       = module.observability.remote_write
}

output "roles" {
  description = "ServiceAccount -> its role."
  value       = module.identity.roles
}

output "max_nodes" {
  description = "Nodes that the network has room for."
  value       = module.subnets.max_nodes
}

output "site" {
  description = "The site file of this stack (terraform output -raw site > site.yaml); the images' digests come with the push."
  value = templatefile("${path.module}/site.tftpl", {
    name         = var.name
    region       = var.region
    bucket       = module.storage.bucket
    store        = "s3://${module.storage.bucket}/${var.store_folder}"
    redis        = module.redis.address
    repositories = module.registry.repositories
  })
}
