# One role for each ServiceAccount that reaches the store (../policies/accounts.yaml), given to Pods by EKS Pod Identity.
# No access key has to be stored, and a Pod of one stage cannot write the data of another.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

resource "aws_iam_role" "account" {
  for_each           = var.policies
  name               = "${var.name}-${each.key}"
  description        = "ServiceAccount ${each.key} of namespace ${var.namespace}"
  assume_role_policy = var.pod_trust["${var.namespace}/${each.key}"]
}

resource "aws_iam_role_policy" "account" {
  for_each = var.policies
  name     = "store"
  role     = aws_iam_role.account[each.key].id
  policy   = each.value
}

resource "aws_eks_pod_identity_association" "account" {
  for_each        = var.policies
  cluster_name    = var.cluster
  namespace       = var.namespace
  service_account = each.key
  role_arn        = aws_iam_role.account[each.key].arn
}
