# The AWS resources that overlay eks (k8s/overlays/eks) needs. The installation is described in infra/runbooks/eks.md.
#
# The modules names, subnets and policies use no provider and are tested offline (tests/infra). The others create resources.
data "aws_partition" "current" {}

locals {
  namespace = "emoji-ldm" # as in k8s/base/namespace.yaml
}

module "names" {
  source     = "./modules/names"
  name       = var.name
  account_id = var.account_id
  tags       = var.tags
}

module "subnets" {
  source = "./modules/subnets"
  cidr   = var.cidr
  zones  = var.zones
}

module "policies" {
  source        = "./modules/policies"
  partition     = data.aws_partition.current.partition
  region        = var.region
  account_id    = var.account_id
  cluster       = module.names.cluster
  namespace     = local.namespace
  bucket        = module.names.store
  store_folder  = var.store_folder
  store_key_arn = module.storage.key_arn
  node_role     = module.names.node_role
  queue         = module.names.karpenter
}

module "observability" {
  source             = "./modules/observability"
  name               = module.names.cluster
  cluster            = module.cluster.name
  pod_trust          = module.policies.pod_trust["monitoring/kube-prometheus-stack-prometheus"]
  metrics            = var.managed_prometheus
  log_days           = var.log_days
  log_key_policy     = module.policies.log_key
  monthly_budget_usd = var.monthly_budget_usd
  budget_emails      = var.budget_emails
}

module "network" {
  source       = "./modules/network"
  name         = module.names.cluster
  cidr         = var.cidr
  private      = module.subnets.private
  public       = module.subnets.public
  data         = module.subnets.data
  discovery    = module.names.discovery
  nat_per_zone = var.nat_per_zone
  endpoints    = var.endpoints
  log_days     = var.log_days
  log_key_arn  = module.observability.log_key_arn
  flow_trust   = module.policies.service_trust["vpc-flow-logs"]
}

module "cluster" {
  source             = "./modules/cluster"
  name               = module.names.cluster
  kubernetes_version = var.kubernetes_version
  subnets            = module.network.private_subnets
  public_cidrs       = var.public_cidrs
  admins             = var.admins
  system_nodes       = var.system_nodes
  addons             = var.addons
  node_role          = module.names.node_role
  discovery          = module.names.discovery
  tags               = module.names.tags
  log_days           = var.log_days
  log_key_arn        = module.observability.log_key_arn
  key_policy         = module.policies.key
  cluster_trust      = module.policies.service_trust["eks"]
  node_trust         = module.policies.service_trust["ec2"]
  pod_trust          = module.policies.pod_trust
}

module "karpenter" {
  source       = "./modules/karpenter"
  name         = module.names.karpenter
  cluster      = module.cluster.name
  policies     = module.policies.karpenter
  pod_trust    = module.policies.pod_trust["karpenter/karpenter"]
  queue_policy = module.policies.queue
}

module "storage" {
  source         = "./modules/storage"
  bucket         = module.names.store
  access_bucket  = module.names.access_logs
  store_folder   = var.store_folder
  lifecycle_days = var.lifecycle_days
  bucket_policy  = module.policies.bucket
  key_policy     = module.policies.key
}

module "identity" {
  source    = "./modules/identity"
  name      = module.names.cluster
  cluster   = module.cluster.name
  namespace = local.namespace
  policies  = module.policies.store
  pod_trust = module.policies.pod_trust
}

module "registry" {
  source     = "./modules/registry"
  name       = module.names.cluster
  images     = ["emoji-ldm-browser", "emoji-ldm-cpu", "emoji-ldm-gpu"]
  keep       = 20
  key_policy = module.policies.key
}

module "redis" {
  source                = "./modules/redis"
  name                  = module.names.cluster
  vpc_id                = module.network.vpc_id
  subnets               = module.network.data_subnets
  client_security_group = module.cluster.security_group
  node_type             = var.redis_node_type
  key_policy            = module.policies.key
}
