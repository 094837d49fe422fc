# What Karpenter needs from AWS: a role, and a queue that announces when machines are taken back. Its node pools are in
# k8s/components/karpenter, the values of its chart in infra/helm/karpenter.yaml.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

resource "aws_iam_role" "controller" {
  name               = var.name
  assume_role_policy = var.pod_trust
}

resource "aws_iam_policy" "controller" {
  for_each    = var.policies
  name        = "${var.name}-${each.key}"
  description = "Karpenter: ${each.key}"
  policy      = each.value
}

resource "aws_iam_role_policy_attachment" "controller" {
  for_each   = aws_iam_policy.controller
  role       = aws_iam_role.controller.name
  policy_arn = each.value.arn
}

resource "aws_eks_pod_identity_association" "controller" {
  cluster_name    = var.cluster
  namespace       = "karpenter"
  service_account = "karpenter"
  role_arn        = aws_iam_role.controller.arn
}

resource "aws_sqs_queue" "interruptions" {
  name                      = var.name
  message_retention_seconds = 300 # a spot notice is given two minutes ahead, so an older message is useless
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "interruptions" {
  queue_url = aws_sqs_queue.interruptions.url
  policy    = var.queue_policy
}

locals {
  events = {
    spot      = { source = "aws.ec2", detail = "EC2 Spot Instance Interruption Warning" }
    rebalance = { source = "aws.ec2", detail = "EC2 Instance Rebalance Recommendation" }
    state     = { source = "aws.ec2", detail = "EC2 Instance State-change Notification" }
    health    = { source = "aws.health", detail = "AWS Health Event" }
  }
}

resource "aws_cloudwatch_event_rule" "interruptions" {
  for_each      = local.events
  name          = "${var.name}-${each.key}"
  description   = each.value.detail
  event_pattern = jsonencode({ source = [each.value.source], "detail-type" = [each.value.detail] })
}

resource "aws_cloudwatch_event_target" "interruptions" {
  for_each = aws_cloudwatch_event_rule.interruptions
  rule     = each.value.name
  arn      = aws_sqs_queue.interruptions.arn
}
