# Applies the whole stack with a mock provider that invents the answers of AWS. Needs the AWS provider, but no account.
mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_secretsmanager_random_password" {
    defaults = { random_password = "0123456789abcdefghijklmnopqrstuvwxyz" }
  }
  mock_resource "aws_secretsmanager_secret_version" {
    defaults = { secret_string = "0123456789abcdefghijklmnopqrstuvwxyz" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/0a1b2c3d" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/made" }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/made" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:made" }
  }
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-central-1:123456789012:made" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::made", id = "emoji-ldm-123456789012-store" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_ecr_repository" {
    defaults = { repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/made" }
  }
  mock_resource "aws_elasticache_replication_group" {
    defaults = { primary_endpoint_address = "primary.example.amazonaws.com" }
  }
}

variables {
  account_id         = "123456789012"
  region             = "eu-central-1"
  zones              = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  admins             = ["arn:aws:iam::123456789012:role/platform"]
  monthly_budget_usd = 500
  budget_emails      = ["you@example.org"]
}

run "the_defaults_are_made_and_say_what_to_write_into_the_overlay" {
  assert {
    condition     = strcontains(output.site, "store: s3://emoji-ldm-123456789012-store/store\n")
    error_message = output.site
  }
  assert {
    condition     = strcontains(output.site, "redis_address: rediss://primary.example.amazonaws.com:6379\n") && strcontains(output.site, "  AWS_REGION: eu-central-1\n")
    error_message = output.site
  }
  assert {
    condition     = keys(output.repositories) == ["emoji-ldm-browser", "emoji-ldm-cpu", "emoji-ldm-gpu"] && output.registry == "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    error_message = "three images in one registry"
  }
  assert {
    condition     = output.cluster_name == "emoji-ldm" && output.interruption_queue == "emoji-ldm-karpenter"
    error_message = "names for the chart of Karpenter"
  }
  assert {
    condition     = contains(keys(output.roles), "train") && !contains(keys(output.roles), "submitter")
    error_message = "a role for each account that reaches the store"
  }
}

run "metrics_are_kept_by_amazon_when_asked_for" {
  variables {
    managed_prometheus = true
  }
  assert {
    condition     = endswith(output.remote_write, "api/v1/remote_write")
    error_message = output.remote_write
  }
}

run "a_zone_of_another_region_is_refused" {
  command = plan
  variables {
    zones = ["eu-central-1a", "us-east-1a"]
  }
  expect_failures = [var.zones]
}

run "the_api_server_is_never_open_to_the_world" {
  command = plan
  variables {
    public_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.public_cidrs]
}

run "nobody_as_administrator_is_refused" {
  command = plan
  variables {
    admins = []
  }
  expect_failures = [var.admins]
}

run "an_add_on_without_an_exact_version_is_refused" {
  command = plan
  variables {
    addons = {
      aws-ebs-csi-driver     = "latest"
      coredns                = "v1.13.2-eksbuild.1"
      eks-pod-identity-agent = "v1.3.10-eksbuild.3"
      kube-proxy             = "v1.35.0-eksbuild.2"
      vpc-cni                = "v1.21.1-eksbuild.3"
    }
  }
  expect_failures = [var.addons]
}
