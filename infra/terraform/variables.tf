variable "name" {
  description = "Name of the cluster, and the beginning of every other name. Another one than emoji-ldm: change k8s/components/karpenter/class.yaml with it."
  type        = string
  default     = "emoji-ldm"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name: 3 to 20 characters a-z, 0-9 and -, beginning with a letter."
  }
}

variable "account_id" {
  description = "Number of the AWS account; in another one nothing is done."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id: twelve digits."
  }
}

variable "region" {
  description = "Region, such as eu-central-1: one with g5 or g6 machines."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region: such as eu-central-1."
  }
}

variable "zones" {
  description = "Availability zones of the region, two or three."
  type        = list(string)
  validation {
    condition     = contains([2, 3], length(var.zones)) && alltrue([for zone in var.zones : startswith(zone, var.region)])
    error_message = "zones: two or three zones of the region, such as eu-central-1a."
  }
}

variable "tags" {
  description = "Further tags of everything, such as team or cost-center."
  type        = map(string)
  default     = {}
  validation {
    condition     = length(var.tags) <= 40
    error_message = "tags: at most 40; AWS takes 50 with ours and Karpenter's."
  }
}

variable "cidr" {
  description = "Addresses of the network: a /16 holds 1,000 nodes and more."
  type        = string
  default     = "10.40.0.0/16"
  validation {
    condition     = can(cidrhost(var.cidr, 0))
    error_message = "cidr: an IPv4 network such as 10.40.0.0/16."
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in every zone rather than one for all: thrice the price, and the crawl outlives a zone."
  type        = bool
  default     = false
}

variable "endpoints" {
  description = "Services that get an interface endpoint, each for some dollars a month and zone; S3 has one for nothing."
  type        = set(string)
  default     = ["ecr.api", "ecr.dkr", "eks-auth", "sts"]
  validation {
    condition     = alltrue([for service in var.endpoints : can(regex("^[a-z0-9.-]+$", service))])
    error_message = "endpoints: names such as ecr.api."
  }
}

variable "kubernetes_version" {
  description = "Version of Kubernetes, as in k8s/versions.yaml."
  type        = string
  default     = "1.35"
  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version: such as 1.35."
  }
}

variable "public_cidrs" {
  description = "Networks that reach the API server over the internet; none: from the VPC alone (VPN, bastion, runner)."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for network in var.public_cidrs : can(cidrhost(network, 0)) && !endswith(network, "/0")])
    error_message = "public_cidrs: your networks, such as 203.0.113.0/24; never all of the internet."
  }
}

variable "admins" {
  description = "ARNs of the roles or users that administer the cluster."
  type        = set(string)
  validation {
    condition     = length(var.admins) > 0 && alltrue([for arn in var.admins : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/", arn))])
    error_message = "admins: at least one ARN of a role or user, or nobody could enter."
  }
}

variable "system_nodes" {
  description = "Machines of the operators: how many, of which types (in order of preference), image and, if it shall not be the newest, its release."
  type = object({
    count          = optional(number, 3)
    instance_types = optional(list(string), ["m7i.xlarge", "m6i.xlarge"])
    ami_type       = optional(string, "AL2023_x86_64_STANDARD")
    release        = optional(string)
  })
  default = {}
  validation {
    condition     = var.system_nodes.count >= 2 && var.system_nodes.count <= 20
    error_message = "system_nodes.count: 2 to 20."
  }
}

variable "addons" {
  description = "Add-on -> exact version, of a 1.35 cluster. Newer ones: aws eks describe-addon-versions --kubernetes-version 1.35"
  type        = map(string)
  default = {
    aws-ebs-csi-driver     = "v1.57.1-eksbuild.1"
    coredns                = "v1.13.2-eksbuild.1"
    eks-pod-identity-agent = "v1.3.10-eksbuild.3"
    kube-proxy             = "v1.35.0-eksbuild.2"
    vpc-cni                = "v1.21.1-eksbuild.3"
  }
  validation {
    condition     = alltrue([for version in values(var.addons) : can(regex("^v[0-9]+\\.[0-9]+\\.[0-9]+-eksbuild\\.[0-9]+$", version))])
    error_message = "addons: exact versions such as v1.21.1-eksbuild.3."
  }
}

variable "store_folder" {
  description = "Folder of the store in its bucket, as in `store: s3://BUCKET/FOLDER` of the configuration."
  type        = string
  default     = "store"
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9/-]*[a-z0-9]$", var.store_folder)) && !strcontains(var.store_folder, "//")
    error_message = "store_folder: a-z, 0-9, - and single /, neither first nor last."
  }
}

variable "lifecycle_days" {
  description = "Folder of the store -> days that replaced or deleted objects can be brought back, and days until objects end by age (none: never)."
  type        = map(object({ noncurrent = number, current = optional(number) }))
  default = {
    tables      = { noncurrent = 30 } # what a vacuum has removed
    branches    = { noncurrent = 30 }
    refs        = { noncurrent = 365 } # small and the most valuable
    checkpoints = { noncurrent = 7 }   # large, and training keeps deleting old ones
    runs        = { noncurrent = 30 }
    sets        = { noncurrent = 7 } # deleted by their owners
    crawl       = { noncurrent = 7 }
    keys        = { noncurrent = 365 }
    logs        = { noncurrent = 1, current = 30 } # log files of Ray, each written once
  }
  validation {
    condition     = alltrue([for days in values(var.lifecycle_days) : days.noncurrent >= 1])
    error_message = "lifecycle_days: one day at least."
  }
}

variable "redis_node_type" {
  description = "Size of the two Redis nodes; the state of one head is some MB."
  type        = string
  default     = "cache.t4g.small"
  validation {
    condition     = can(regex("^cache\\.[a-z0-9]+\\.[a-z0-9]+$", var.redis_node_type))
    error_message = "redis_node_type: such as cache.t4g.small."
  }
}

variable "log_days" {
  description = "Days that logs of control plane and network are kept."
  type        = number
  default     = 365
  validation {
    condition     = contains([30, 60, 90, 120, 180, 365, 400, 545, 731, 1096, 1827, 3653], var.log_days)
    error_message = "log_days: one of the numbers that CloudWatch knows, 30 at least."
  }
}

variable "managed_prometheus" {
  description = "Whether metrics are kept in Amazon Managed Prometheus too."
  type        = bool
  default     = false
}

variable "monthly_budget_usd" {
  description = "What the account may cost in a month, in US dollars, before mails are sent; nothing is stopped."
  type        = number
  validation {
    condition     = var.monthly_budget_usd > 0
    error_message = "monthly_budget_usd: more than nothing."
  }
}

variable "budget_emails" {
  description = "Who hears of it."
  type        = list(string)
  validation {
    condition     = length(var.budget_emails) > 0 && alltrue([for email in var.budget_emails : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", email))])
    error_message = "budget_emails: one address at least."
  }
}
