output "private" {
  description = "Zone -> network of its nodes and Pods."
  value       = { for zone, number in local.index : zone => cidrsubnet(var.cidr, 2, number) }
}

output "public" {
  description = "Zone -> network of its NAT gateway and load balancers."
  value       = { for zone, number in local.index : zone => cidrsubnet(local.rest, local.small, number) }
}

output "data" {
  description = "Zone -> network of its Redis node, without a way to the internet."
  value       = { for zone, number in local.index : zone => cidrsubnet(local.rest, local.small, 4 + number) }
}

output "max_nodes" {
  description = "Nodes that have room, each with one /28 of addresses for its Pods beside its own address."
  value       = length(var.zones) * floor((pow(2, 30 - local.length) - local.reserved) / (local.prefix + 1))
}
