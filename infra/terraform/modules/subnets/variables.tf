variable "cidr" {
  description = "Addresses of the network (VPC), IPv4."
  type        = string
  validation {
    condition     = can(cidrhost(var.cidr, 0)) && try(cidrhost(var.cidr, 0) == split("/", var.cidr)[0], false)
    error_message = "cidr: an IPv4 network such as 10.40.0.0/16, whose address has no bits behind the mask."
  }
  validation {
    condition     = try(contains([16, 17, 18, 19], tonumber(split("/", var.cidr)[1])), false)
    error_message = "cidr: /16 to /19. AWS takes no larger one, and a smaller one has too few addresses for Pods."
  }
  validation {
    condition     = can(regex("^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.)", var.cidr))
    error_message = "cidr: a private network (RFC 1918)."
  }
}

variable "zones" {
  description = "Availability zones, two or three: GPUs are scarce, each further zone is one more place to find some."
  type        = list(string)
  validation {
    condition     = contains([2, 3], length(var.zones)) && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones: two or three different ones (EKS needs two; the addresses are cut for three)."
  }
}
