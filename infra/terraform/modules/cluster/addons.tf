# Amazon's own parts of the cluster, each at an exact version, those with rights by Pod Identity.
locals {
  settings = {
    vpc-cni = {
      enableNetworkPolicy = "true" # k8s/components/network would else be words
      env = {
        ENABLE_PREFIX_DELEGATION = "true" # sixteen addresses at a time: a node takes as many Pods as it has room for
        WARM_PREFIX_TARGET       = "1"
      }
    }
    coredns = {
      autoScaling = { enabled = true, minReplicas = 2, maxReplicas = 20 }
    }
    # Its node part takes the taint ebs.csi.aws.com/agent-not-ready away, which k8s/components/karpenter/cpu.yaml sets.
    aws-ebs-csi-driver = {
      node                = { tolerateAllTaints = true }
      defaultStorageClass = { enabled = true } # gp3, encrypted: EKS has no default class by itself
    }
  }
  # Add-on -> its account and what it may, as Amazon says it.
  identities = {
    vpc-cni            = { account = "aws-node", policy = "${local.managed}/AmazonEKS_CNI_Policy" }
    aws-ebs-csi-driver = { account = "ebs-csi-controller-sa", policy = "${local.managed}/service-role/AmazonEBSCSIDriverPolicy" }
  }
  early = toset(["eks-pod-identity-agent", "kube-proxy", "vpc-cni"])
  late  = toset(["aws-ebs-csi-driver", "coredns"])
}

resource "aws_iam_role" "addon" {
  for_each           = local.identities
  name               = "${var.name}-${each.value.account}"
  assume_role_policy = var.pod_trust["kube-system/${each.value.account}"]
}

resource "aws_iam_role_policy_attachment" "addon" {
  for_each   = local.identities
  role       = aws_iam_role.addon[each.key].name
  policy_arn = each.value.policy
}

resource "aws_eks_addon" "early" {
  for_each                    = local.early
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  addon_version               = var.addons[each.key]
  configuration_values        = contains(keys(local.settings), each.key) ? jsonencode(local.settings[each.key]) : null
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  dynamic "pod_identity_association" {
    for_each = contains(keys(local.identities), each.key) ? [each.key] : []
    content {
      role_arn        = aws_iam_role.addon[each.key].arn
      service_account = local.identities[each.key].account
    }
  }

  depends_on = [aws_iam_role_policy_attachment.addon]
}

resource "aws_eks_addon" "late" {
  for_each                    = local.late
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  addon_version               = var.addons[each.key]
  configuration_values        = contains(keys(local.settings), each.key) ? jsonencode(local.settings[each.key]) : null
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  dynamic "pod_identity_association" {
    for_each = contains(keys(local.identities), each.key) ? [each.key] : []
    content {
      role_arn        = aws_iam_role.addon[each.key].arn
      service_account = local.identities[each.key].account
    }
  }

  depends_on = [aws_iam_role_policy_attachment.addon, aws_eks_node_group.system]
}
