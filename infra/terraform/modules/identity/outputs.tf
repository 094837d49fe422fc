output "roles" {
  description = "ServiceAccount -> its role."
  value       = { for account, role in aws_iam_role.account : account => role.arn }
}
