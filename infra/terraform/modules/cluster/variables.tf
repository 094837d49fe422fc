variable "name" {
  description = "Name of the cluster."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]+$", var.name))
    error_message = "name: a-z, 0-9 and -."
  }
}

variable "kubernetes_version" {
  description = "Version of Kubernetes, as in k8s/versions.yaml."
  type        = string
  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version: such as 1.35."
  }
}

variable "subnets" {
  description = "Private subnets of nodes and Pods."
  type        = list(string)
  validation {
    condition     = length(var.subnets) >= 2
    error_message = "subnets: of two zones or more."
  }
}

variable "public_cidrs" {
  description = "Networks that reach the API server over the internet; none: it is reached from the VPC alone."
  type        = list(string)
  validation {
    condition     = alltrue([for network in var.public_cidrs : can(cidrhost(network, 0))])
    error_message = "public_cidrs: IPv4 networks such as 203.0.113.0/24."
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
  description = "Machines of the operators: how many, of which types (in order of preference), image and its release."
  type = object({
    count          = number
    instance_types = list(string)
    ami_type       = string
    release        = optional(string)
  })
  validation {
    condition     = var.system_nodes.count >= 2 && length(var.system_nodes.instance_types) > 0
    error_message = "system_nodes: at least two machines, of at least one type."
  }
  validation {
    condition     = contains(["AL2023_x86_64_STANDARD", "BOTTLEROCKET_x86_64"], var.system_nodes.ami_type)
    error_message = "system_nodes.ami_type: AL2023_x86_64_STANDARD or BOTTLEROCKET_x86_64."
  }
}

variable "addons" {
  description = "Add-on -> exact version."
  type        = map(string)
  validation {
    condition     = toset(keys(var.addons)) == toset(["aws-ebs-csi-driver", "coredns", "eks-pod-identity-agent", "kube-proxy", "vpc-cni"])
    error_message = "addons: versions of aws-ebs-csi-driver, coredns, eks-pod-identity-agent, kube-proxy and vpc-cni."
  }
  validation {
    condition     = alltrue([for version in values(var.addons) : can(regex("^v[0-9]+\\.[0-9]+\\.[0-9]+-eksbuild\\.[0-9]+$", version))])
    error_message = "addons: exact versions such as v1.21.1-eksbuild.3."
  }
}

variable "node_role" {
  description = "Name of the nodes' role."
  type        = string
  validation {
    condition     = can(regex("^[\\w+=,.@-]{1,64}$", var.node_role))
    error_message = "node_role: a valid IAM role name."
  }
}

variable "discovery" {
  description = "The tag by which Karpenter finds the security group."
  type        = map(string)
  validation {
    condition     = length(var.discovery) > 0
    error_message = "discovery: at least one tag."
  }
}

variable "tags" {
  description = "Tags of machines that a launch template starts; the provider's own tags do not reach them."
  type        = map(string)
  validation {
    condition     = length(var.tags) > 0
    error_message = "tags: at least one, or the bill could not be split."
  }
}

variable "log_days" {
  description = "Days that the control plane's logs are kept."
  type        = number
  validation {
    condition     = contains([30, 60, 90, 120, 180, 365, 400, 545, 731, 1096, 1827, 3653], var.log_days)
    error_message = "log_days: one of the numbers that CloudWatch knows, 30 at least."
  }
}

variable "log_key_arn" {
  description = "Key that encrypts log groups."
  type        = string
  validation {
    condition     = startswith(var.log_key_arn, "arn:")
    error_message = "log_key_arn: an ARN."
  }
}

variable "key_policy" {
  description = "Policy of the key of Kubernetes Secrets, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.key_policy).Statement)
    error_message = "key_policy: a policy as JSON."
  }
}

variable "cluster_trust" {
  description = "Who may use the control plane's role, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.cluster_trust).Statement)
    error_message = "cluster_trust: a policy as JSON."
  }
}

variable "node_trust" {
  description = "Who may use the nodes' role, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.node_trust).Statement)
    error_message = "node_trust: a policy as JSON."
  }
}

variable "pod_trust" {
  description = "namespace/ServiceAccount -> who may use its role, as JSON; those of the add-ons at least."
  type        = map(string)
  validation {
    condition     = alltrue([for account in ["aws-node", "ebs-csi-controller-sa"] : can(jsondecode(var.pod_trust["kube-system/${account}"]).Statement)])
    error_message = "pod_trust: policies as JSON for kube-system/aws-node and kube-system/ebs-csi-controller-sa."
  }
}
