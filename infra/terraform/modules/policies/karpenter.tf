# The rights of Karpenter, following its CloudFormation template for 1.x: it may start, tag and terminate machines of this
# cluster and pass them the role of the nodes, and nothing else. They are two documents, because IAM limits the length
# of one.
locals {
  ec2   = "arn:${var.partition}:ec2:${var.region}"
  iam   = "arn:${var.partition}:iam::${var.account_id}"
  owned = { "kubernetes.io/cluster/${var.cluster}" = "owned", "eks:eks-cluster-name" = var.cluster }
  made  = [for kind in ["fleet", "instance", "volume", "network-interface", "launch-template", "spot-instances-request"] : "${local.ec2}:*:${kind}/*"]

  requested = { for tag, value in local.owned : "aws:RequestTag/${tag}" => value }
  existing  = { "aws:ResourceTag/kubernetes.io/cluster/${var.cluster}" = "owned" }
  of_a_pool = { for when in ["Request", "Resource"] : when => { "aws:${when}Tag/karpenter.sh/nodepool" = "*" } }
  of_class  = { for when in ["Request", "Resource"] : when => { "aws:${when}Tag/karpenter.k8s.aws/ec2nodeclass" = "*" } }
  here      = { for when in ["Request", "Resource"] : when => { "aws:${when}Tag/topology.kubernetes.io/region" = var.region } }

  karpenter_machines = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "StartFrom"
        Effect   = "Allow"
        Action   = ["ec2:CreateFleet", "ec2:RunInstances"]
        Resource = ["${local.ec2}::image/*", "${local.ec2}::snapshot/*", "${local.ec2}:*:security-group/*", "${local.ec2}:*:subnet/*"]
      },
      {
        Sid       = "StartFromOwnTemplates"
        Effect    = "Allow"
        Action    = ["ec2:CreateFleet", "ec2:RunInstances"]
        Resource  = ["${local.ec2}:*:launch-template/*"]
        Condition = { StringEquals = local.existing, StringLike = local.of_a_pool.Resource }
      },
      {
        Sid       = "StartTagged"
        Effect    = "Allow"
        Action    = ["ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:RunInstances"]
        Resource  = local.made
        Condition = { StringEquals = local.requested, StringLike = local.of_a_pool.Request }
      },
      {
        Sid      = "TagWhatIsStarted"
        Effect   = "Allow"
        Action   = ["ec2:CreateTags"]
        Resource = local.made
        Condition = {
          StringEquals = merge(local.requested, { "ec2:CreateAction" = ["CreateFleet", "CreateLaunchTemplate", "RunInstances"] })
          StringLike   = local.of_a_pool.Request
        }
      },
      {
        Sid      = "NameWhatRuns"
        Effect   = "Allow"
        Action   = ["ec2:CreateTags"]
        Resource = ["${local.ec2}:*:instance/*"]
        Condition = {
          StringEquals                = local.existing
          StringLike                  = local.of_a_pool.Resource
          StringEqualsIfExists        = { "aws:RequestTag/eks:eks-cluster-name" = var.cluster }
          "ForAllValues:StringEquals" = { "aws:TagKeys" = ["Name", "eks:eks-cluster-name", "karpenter.sh/nodeclaim"] }
        }
      },
      {
        Sid       = "End"
        Effect    = "Allow"
        Action    = ["ec2:DeleteLaunchTemplate", "ec2:TerminateInstances"]
        Resource  = ["${local.ec2}:*:instance/*", "${local.ec2}:*:launch-template/*"]
        Condition = { StringEquals = local.existing, StringLike = local.of_a_pool.Resource }
      },
    ]
  })

  karpenter_rest = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "ec2:DescribeCapacityReservations", "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceStatus",
          "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplates",
          "ec2:DescribePlacementGroups", "ec2:DescribeSecurityGroups", "ec2:DescribeSpotPriceHistory", "ec2:DescribeSubnets",
        ]
        Resource  = "*" # EC2 has no narrower resource for Describe calls
        Condition = { StringEquals = { "aws:RequestedRegion" = var.region } }
      },
      {
        Sid      = "Prices"
        Effect   = "Allow"
        Action   = ["pricing:GetProducts"]
        Resource = "*" # the public price list has no resources
      },
      {
        Sid      = "Images"
        Effect   = "Allow"
        Action   = ["ssm:GetParameter"]
        Resource = ["arn:${var.partition}:ssm:${var.region}::parameter/aws/service/*"]
      },
      {
        Sid      = "Interruptions"
        Effect   = "Allow"
        Action   = ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"]
        Resource = [local.queue_arn]
      },
      {
        Sid       = "GiveTheNodesRole"
        Effect    = "Allow"
        Action    = ["iam:PassRole"]
        Resource  = ["${local.iam}:role/${var.node_role}"]
        Condition = { StringEquals = { "iam:PassedToService" = ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"] } }
      },
      {
        Sid       = "MakeProfiles"
        Effect    = "Allow"
        Action    = ["iam:CreateInstanceProfile"]
        Resource  = ["${local.iam}:instance-profile/*"]
        Condition = { StringEquals = merge(local.requested, local.here.Request), StringLike = local.of_class.Request }
      },
      {
        Sid      = "TagProfiles"
        Effect   = "Allow"
        Action   = ["iam:TagInstanceProfile"]
        Resource = ["${local.iam}:instance-profile/*"]
        Condition = {
          StringEquals = merge(local.existing, local.requested, local.here.Resource, local.here.Request)
          StringLike   = merge(local.of_class.Resource, local.of_class.Request)
        }
      },
      {
        Sid       = "KeepProfiles"
        Effect    = "Allow"
        Action    = ["iam:AddRoleToInstanceProfile", "iam:DeleteInstanceProfile", "iam:RemoveRoleFromInstanceProfile"]
        Resource  = ["${local.iam}:instance-profile/*"]
        Condition = { StringEquals = merge(local.existing, local.here.Resource), StringLike = local.of_class.Resource }
      },
      {
        Sid      = "SeeProfiles"
        Effect   = "Allow"
        Action   = ["iam:GetInstanceProfile"]
        Resource = ["${local.iam}:instance-profile/*"]
      },
      {
        Sid      = "ListProfiles"
        Effect   = "Allow"
        Action   = ["iam:ListInstanceProfiles"]
        Resource = "*" # listing has no narrower resource; Karpenter deletes only its own profiles
      },
      {
        Sid      = "FindTheCluster"
        Effect   = "Allow"
        Action   = ["eks:DescribeCluster"]
        Resource = ["arn:${var.partition}:eks:${var.region}:${var.account_id}:cluster/${var.cluster}"]
      },
    ]
  })
}
