terraform {
  required_version = ">= 1.11.0, < 2.0.0" # locks in S3
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
  # Where the state lies is said by backend.hcl, which bootstrap/ prints: terraform init -backend-config=backend.hcl
  backend "s3" {}
}

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]
  default_tags {
    tags = module.names.tags
  }
}
