variable "name" {
  description = "Name of the cache."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,38}[a-z0-9]$", var.name))
    error_message = "name: up to 40 characters a-z, 0-9 and -."
  }
}

variable "vpc_id" {
  description = "The network."
  type        = string
  validation {
    condition     = length(var.vpc_id) > 0
    error_message = "vpc_id: a network."
  }
}

variable "subnets" {
  description = "Subnets of the cache, of two zones or more."
  type        = list(string)
  validation {
    condition     = length(var.subnets) >= 2
    error_message = "subnets: of two zones or more."
  }
}

variable "client_security_group" {
  description = "Security group of nodes and Pods."
  type        = string
  validation {
    condition     = length(var.client_security_group) > 0
    error_message = "client_security_group: a security group."
  }
}

variable "node_type" {
  description = "Size of the two nodes; the state of one head is some MB."
  type        = string
  validation {
    condition     = can(regex("^cache\\.[a-z0-9]+\\.[a-z0-9]+$", var.node_type))
    error_message = "node_type: such as cache.t4g.small."
  }
}

variable "key_policy" {
  description = "Policy of the key that encrypts cache and password, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.key_policy).Statement)
    error_message = "key_policy: a policy as JSON."
  }
}
