# Machines for the operators (KubeRay, Kueue, Karpenter, Prometheus, DNS): on demand, in every zone, always there.
# The project's own Pods name their pool, so they never come here.
resource "aws_iam_role" "node" {
  name               = var.node_role
  assume_role_policy = var.node_trust
}

# No policy of the CNI: its own Pods have that right (addons.tf), not everything that reaches a node's credentials.
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
    http_put_response_hop_limit = 1 # a packet from a Pod takes one hop more: no Pod sees the node's credentials
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
  # Bottlerocket keeps its own few files apart from images and Pods.
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

  # DNS needs nodes; nodes need the network before they are ready.
  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.early]
}
