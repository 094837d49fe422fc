# Nodes for the operators (KubeRay, Kueue, Karpenter, Prometheus, DNS), on demand and spread over the zones. Karpenter
# runs here, so it cannot provision them itself. The Pods of the project select their own pools and never run here.
resource "aws_iam_role" "node" {
  name               = var.node_role
  assume_role_policy = var.node_trust
}

# The policy of the CNI is missing on purpose: its Pods have a role of their own (addons.tf), so that the credentials of
# a node do not include those rights.
resource "aws_iam_role_policy_attachment" "node" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly", "AmazonSSMManagedInstanceCore"])
  role       = aws_iam_role.node.name
  policy_arn = "${local.managed}/${each.key}"
}

resource "aws_launch_template" "system" {
  name                   = "${var.name}-system"
  update_default_version = true
  ebs_optimized          = true

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # requests from Pods take one hop more, so Pods cannot read the credentials of the node
    instance_metadata_tags      = "disabled"
  }

  dynamic "block_device_mappings" {
    for_each = local.disks
    content {
      device_name = block_device_mappings.key
      ebs {
        volume_type           = "gp3"
        volume_size           = block_device_mappings.value
        encrypted             = true
        delete_on_termination = true
      }
    }
  }

  monitoring {
    enabled = true
  }

  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume", "network-interface"])
    content {
      resource_type = tag_specifications.value
      tags          = merge(var.tags, { Name = "${var.name}-system" })
    }
  }
}

locals {
  # Bottlerocket has a small disk for the system and a second one for images and Pods.
  disks = startswith(var.system_nodes.ami_type, "BOTTLEROCKET") ? { "/dev/xvda" = 4, "/dev/xvdb" = 60 } : { "/dev/xvda" = 60 }
}

resource "aws_eks_node_group" "system" {
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "system"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = var.subnets
  version         = var.kubernetes_version
  release_version = var.system_nodes.release
  ami_type        = var.system_nodes.ami_type
  instance_types  = var.system_nodes.instance_types
  capacity_type   = "ON_DEMAND"
  labels          = { "emoji-ldm/pool" = "system" }

  scaling_config {
    min_size     = var.system_nodes.count
    desired_size = var.system_nodes.count
    max_size     = var.system_nodes.count + 1
  }

  update_config {
    max_unavailable = 1
  }

  node_repair_config {
    enabled = true
  }

  launch_template {
    id      = aws_launch_template.system.id
    version = aws_launch_template.system.latest_version
  }

  # Nodes become ready only with the network add-on, so it comes first; DNS needs nodes, so it comes after them.
  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.early]
}
