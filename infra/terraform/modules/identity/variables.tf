variable "name" {
  description = "Beginning of the roles' names."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]+$", var.name))
    error_message = "name: a-z, 0-9 and -."
  }
}

variable "cluster" {
  description = "Name of the cluster, once it is there."
  type        = string
  validation {
    condition     = length(var.cluster) > 0
    error_message = "cluster: a name."
  }
}

variable "namespace" {
  description = "Namespace of the ServiceAccounts."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace: a valid Kubernetes name."
  }
}

variable "policies" {
  description = "ServiceAccount -> what it may, as JSON."
  type        = map(string)
  validation {
    condition     = length(var.policies) > 0 && alltrue([for policy in values(var.policies) : can(jsondecode(policy).Statement)])
    error_message = "policies: policies as JSON."
  }
}

variable "pod_trust" {
  description = "namespace/ServiceAccount -> who may use its role, as JSON."
  type        = map(string)
  validation {
    condition     = alltrue([for trust in values(var.pod_trust) : can(jsondecode(trust).Statement)])
    error_message = "pod_trust: policies as JSON."
  }
}
