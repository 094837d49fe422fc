# The names of all resources. The module uses no provider, so it is tested offline.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
}

locals {
  # Names of buckets are unique across all of AWS, so the number of the account is part of them.
  unique = "${var.name}-${var.account_id}"
}
