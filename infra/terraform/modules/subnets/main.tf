# How the addresses of the network are divided. The module uses no provider, so it is tested offline.
#
# The nodes and Pods of each zone get a quarter of the network. The last quarter is shared by the subnets of load balancers
# and NAT (public) and of Redis (data). In a /16 that is 16,379 addresses per zone and 251 for each of the small subnets.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
}

locals {
  index    = { for number, zone in var.zones : zone => number }
  length   = tonumber(split("/", var.cidr)[1])
  rest     = cidrsubnet(var.cidr, 2, 3)
  small    = 24 - (local.length + 2) # bits between the last quarter and a /24
  reserved = 5                       # addresses that AWS reserves in every subnet
  prefix   = 16                      # addresses that the CNI reserves at once for a node (prefix delegation)
}
