# The add-ons of EKS, each at an exact version. Those that need rights get them by Pod Identity.
locals {
  settings = {
    vpc-cni = {
      enableNetworkPolicy = "true" # otherwise the policies of k8s/components/network have no effect
      env = {
        ENABLE_PREFIX_DELEGATION = "true" # sixteen addresses at a time, so that addresses do not limit the Pods of a node
        WARM_PREFIX_TARGET       = "1"
      }
    }
    coredns = {
      autoScaling = { enabled = true, minReplicas = 2, maxReplicas = 20 }
    }
    # Its Pod on each node removes the taint ebs.csi.aws.com/agent-not-ready, which k8s/components/karpenter/cpu.yaml sets.
    aws-ebs-csi-driver = {
      node                = { tolerateAllTaints = true }
      defaultStorageClass = { enabled = true } # encrypted gp3; EKS itself has no default class
    }
  }
  # Add-on -> its ServiceAccount and the managed policy that Amazon documents for it.
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
