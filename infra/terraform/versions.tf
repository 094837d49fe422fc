terraform {
  required_version = ">= 1.11.0, < 2.0.0" # the first versions that lock the state in S3 itself
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
  # The location of the state is in backend.hcl, which bootstrap/ prints: terraform init -backend-config=backend.hcl
  backend "s3" {}
}

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]
  default_tags {
    tags = module.names.tags
  }
}
