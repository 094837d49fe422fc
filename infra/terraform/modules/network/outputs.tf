output "vpc_id" {
  description = "The network."
  value       = aws_vpc.this.id
}

output "private_subnets" {
  description = "Subnets of nodes and Pods."
  value       = [for subnet in aws_subnet.private : subnet.id]
}

output "data_subnets" {
  description = "Subnets of Redis."
  value       = [for subnet in aws_subnet.data : subnet.id]
}

output "s3_endpoint" {
  description = "Gateway endpoint of S3."
  value       = aws_vpc_endpoint.s3.id
}
