variable "name" {
  description = "Beginning of all names."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]+$", var.name))
    error_message = "name: a-z, 0-9 and -."
  }
}

variable "cidr" {
  description = "Addresses of the network."
  type        = string
  validation {
    condition     = can(cidrhost(var.cidr, 0))
    error_message = "cidr: an IPv4 network."
  }
}

variable "private" {
  description = "Zone -> network of its nodes and Pods."
  type        = map(string)
  validation {
    condition     = length(var.private) >= 2 && alltrue([for network in values(var.private) : can(cidrhost(network, 0))])
    error_message = "private: IPv4 networks of two zones or more."
  }
}

variable "public" {
  description = "Zone -> network of its NAT gateway and load balancers; the same zones."
  type        = map(string)
  validation {
    condition     = keys(var.public) == keys(var.private)
    error_message = "public: the zones of private."
  }
}

variable "data" {
  description = "Zone -> network of its Redis node; the same zones."
  type        = map(string)
  validation {
    condition     = keys(var.data) == keys(var.private)
    error_message = "data: the zones of private."
  }
}

variable "discovery" {
  description = "The tag by which Karpenter finds the private subnets."
  type        = map(string)
  validation {
    condition     = length(var.discovery) > 0
    error_message = "discovery: at least one tag, or Karpenter would find no subnet."
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in every zone rather than one for all."
  type        = bool
}

variable "endpoints" {
  description = "Services of AWS that get an interface endpoint, such as ecr.api."
  type        = set(string)
  validation {
    condition     = alltrue([for service in var.endpoints : can(regex("^[a-z0-9.-]+$", service))])
    error_message = "endpoints: names such as ecr.api."
  }
}

variable "log_days" {
  description = "Days that flow logs are kept."
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

variable "flow_trust" {
  description = "Who may use the role that writes flow logs, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.flow_trust).Statement)
    error_message = "flow_trust: a policy as JSON."
  }
}
