# Which addresses go where. No provider: tested offline.
#
# A quarter of the network for the Pods and nodes of each zone, the last one shared by load balancers and NAT (public)
# and Redis (data): of a /16 that is 16,379 addresses a zone and 251 for each of the small ones.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
}

locals {
  index    = { for number, zone in var.zones : zone => number }
  length   = tonumber(split("/", var.cidr)[1])
  rest     = cidrsubnet(var.cidr, 2, 3)
  small    = 24 - (local.length + 2) # bits between the last quarter and a /24
  reserved = 5                       # addresses that AWS keeps of every subnet
  prefix   = 16                      # addresses that the CNI takes at once for a node (prefix delegation)
}
