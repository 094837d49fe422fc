# Logs and the budget. Metrics stay in the Prometheus of the cluster (infra/helm/kube-prometheus-stack.yaml). With
# `metrics`, it also writes them to Amazon Managed Prometheus (by Pod Identity), where they are kept for 150 days.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

resource "aws_kms_key" "logs" {
  description             = "Logs of ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = var.log_key_policy
}

resource "aws_kms_alias" "logs" {
  name          = "alias/${var.name}-logs"
  target_key_id = aws_kms_key.logs.key_id
}

resource "aws_prometheus_workspace" "this" {
  count       = var.metrics ? 1 : 0
  alias       = var.name
  kms_key_arn = aws_kms_key.logs.arn
  logging_configuration {
    log_group_arn = "${aws_cloudwatch_log_group.metrics[0].arn}:*"
  }
}

resource "aws_cloudwatch_log_group" "metrics" {
  count             = var.metrics ? 1 : 0
  name              = "/aws/vendedlogs/${var.name}/prometheus"
  retention_in_days = var.log_days
  kms_key_id        = aws_kms_key.logs.arn
}

# What one month may cost before mails are sent. GPUs that run without being used are the most likely cause.
resource "aws_budgets_budget" "month" {
  name         = var.name
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }
    content {
      comparison_operator        = "GREATER_THAN"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      notification_type          = notification.key
      subscriber_email_addresses = var.budget_emails
    }
  }
}

resource "aws_iam_role" "prometheus" {
  count              = var.metrics ? 1 : 0
  name               = "${var.name}-prometheus"
  assume_role_policy = var.pod_trust
}

resource "aws_iam_role_policy" "prometheus" {
  count = var.metrics ? 1 : 0
  name  = "write"
  role  = aws_iam_role.prometheus[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["aps:RemoteWrite"]
      Resource = [aws_prometheus_workspace.this[0].arn]
    }]
  })
}

resource "aws_eks_pod_identity_association" "prometheus" {
  count           = var.metrics ? 1 : 0
  cluster_name    = var.cluster
  namespace       = "monitoring"
  service_account = "kube-prometheus-stack-prometheus" # the name that the chart gives it
  role_arn        = aws_iam_role.prometheus[0].arn
}
