# What things are called. No provider: tested offline.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
}

locals {
  # Names of buckets are the world's, so the account's number is part of them.
  unique = "${var.name}-${var.account_id}"
}
