# Policies that are attached to resources: who may use a role, a bucket, a queue or a key.
locals {
  queue_arn = "arn:${var.partition}:sqs:${var.region}:${var.account_id}:${var.queue}"

  # ServiceAccounts of operators that have a role. Those of the project itself are in accounts.yaml.
  operators = toset([
    "karpenter/karpenter",
    "kube-system/aws-node",
    "kube-system/ebs-csi-controller-sa",
    "monitoring/kube-prometheus-stack-prometheus",
  ])

  # A role can be assumed only by Pods of this cluster with this ServiceAccount (EKS Pod Identity), whatever other
  # associations somebody adds.
  pod_trust = {
    for account in setunion(local.operators, [for name in keys(local.store) : "${var.namespace}/${name}"]) : account => jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Sid       = "Pods"
        Effect    = "Allow"
        Principal = { Service = "pods.eks.amazonaws.com" }
        Action    = ["sts:AssumeRole", "sts:TagSession"]
        Condition = {
          StringEquals = {
            "aws:RequestTag/eks-cluster-arn"            = "arn:${var.partition}:eks:${var.region}:${var.account_id}:cluster/${var.cluster}"
            "aws:RequestTag/kubernetes-namespace"       = split("/", account)[0]
            "aws:RequestTag/kubernetes-service-account" = split("/", account)[1]
          }
        }
      }]
    })
  }

  service_trust = {
    for service in ["ec2", "eks", "vpc-flow-logs"] : service => jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Sid       = "Service"
        Effect    = "Allow"
        Principal = { Service = "${service}.amazonaws.com" }
        Action    = ["sts:AssumeRole"]
      }]
    })
  }

  bucket_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "OnlyEncryptedConnections"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*" # a denial covers every action
        Resource  = [local.bucket, "${local.bucket}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "OnlyModernEncryption"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*" # a denial covers every action
        Resource  = [local.bucket, "${local.bucket}/*"]
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
      {
        Sid       = "OnlyThisKey"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:PutObject"
        Resource  = ["${local.bucket}/*"]
        # A request that names no key gets the key of the bucket. `Null` exempts such requests, because a negated
        # comparison such as StringNotEquals is also true if the header is missing.
        Condition = {
          Null            = { "s3:x-amz-server-side-encryption-aws-kms-key-id" = "false" }
          StringNotEquals = { "s3:x-amz-server-side-encryption-aws-kms-key-id" = var.store_key_arn }
        }
      },
    ]
  })

  queue_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Events"
        Effect    = "Allow"
        Principal = { Service = ["events.amazonaws.com", "sqs.amazonaws.com"] }
        Action    = ["sqs:SendMessage"]
        Resource  = [local.queue_arn]
      },
      {
        Sid       = "OnlyEncryptedConnections"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*" # a denial covers every action
        Resource  = [local.queue_arn]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })

  # Access to a key is decided by IAM of this account, as in the default policy of AWS. Without this statement nobody could
  # ever change the key again. A key for log groups must also admit the log service.
  key_owner = {
    Sid       = "Account"
    Effect    = "Allow"
    Principal = { AWS = "${local.iam}:root" }
    Action    = "kms:*" # IAM of the account decides
    Resource  = "*"     # in the policy of a key, this means the key itself
  }
  key_policy = jsonencode({ Version = "2012-10-17", Statement = [local.key_owner] })
  log_key_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [local.key_owner, {
      Sid       = "Logs"
      Effect    = "Allow"
      Principal = { Service = "logs.${var.region}.amazonaws.com" }
      Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
      Resource  = "*" # in the policy of a key, this means the key itself
      Condition = {
        ArnLike = { "kms:EncryptionContext:aws:logs:arn" = "arn:${var.partition}:logs:${var.region}:${var.account_id}:log-group:*" }
      }
    }]
  })
}
