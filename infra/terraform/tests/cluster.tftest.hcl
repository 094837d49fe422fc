# Checks each setting that keeps the cluster closed. Needs the AWS provider, but no account.
mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
}

variables {
  name               = "emoji-ldm"
  kubernetes_version = "1.35"
  subnets            = ["subnet-a", "subnet-b"]
  public_cidrs       = []
  admins             = ["arn:aws:iam::123456789012:role/platform"]
  system_nodes       = { count = 3, instance_types = ["m7i.xlarge"], ami_type = "BOTTLEROCKET_x86_64" }
  addons = {
    aws-ebs-csi-driver     = "v1.57.1-eksbuild.1"
    coredns                = "v1.13.2-eksbuild.1"
    eks-pod-identity-agent = "v1.3.10-eksbuild.3"
    kube-proxy             = "v1.35.0-eksbuild.2"
    vpc-cni                = "v1.21.1-eksbuild.3"
  }
  node_role     = "emoji-ldm-node"
  discovery     = { "karpenter.sh/discovery" = "emoji-ldm" }
  tags          = { project = "emoji-ldm" }
  log_days      = 365
  log_key_arn   = "arn:aws:kms:eu-central-1:123456789012:key/0a1b2c3d"
  key_policy    = "{\"Statement\": []}"
  cluster_trust = "{\"Version\": \"2012-10-17\", \"Statement\": []}"
  node_trust    = "{\"Version\": \"2012-10-17\", \"Statement\": []}"
  pod_trust = {
    "kube-system/aws-node"              = "{\"Version\": \"2012-10-17\", \"Statement\": []}"
    "kube-system/ebs-csi-controller-sa" = "{\"Version\": \"2012-10-17\", \"Statement\": []}"
  }
}

run "without_networks_the_api_server_is_private" {
  command = plan
  module {
    source = "./modules/cluster"
  }
  assert {
    condition     = !aws_eks_cluster.this.vpc_config[0].endpoint_public_access && aws_eks_cluster.this.vpc_config[0].endpoint_private_access
    error_message = "the endpoint is public"
  }
  assert {
    condition     = !aws_eks_cluster.this.access_config[0].bootstrap_cluster_creator_admin_permissions && aws_eks_cluster.this.access_config[0].authentication_mode == "API"
    error_message = "who made the cluster administers it"
  }
  assert {
    condition     = length(aws_eks_cluster.this.enabled_cluster_log_types) == 5 && one(aws_eks_cluster.this.encryption_config[0].resources) == "secrets"
    error_message = "logs and encryption"
  }
  assert {
    condition     = aws_launch_template.system.metadata_options[0].http_put_response_hop_limit == 1 && aws_launch_template.system.metadata_options[0].http_tokens == "required"
    error_message = "Pods could reach the node's credentials"
  }
  assert {
    condition     = keys({ for disk in aws_launch_template.system.block_device_mappings : disk.device_name => 1 }) == ["/dev/xvda", "/dev/xvdb"]
    error_message = "Bottlerocket has two disks"
  }
  assert {
    condition     = jsondecode(aws_eks_addon.early["vpc-cni"].configuration_values).enableNetworkPolicy == "true"
    error_message = "NetworkPolicies would be words"
  }
  assert {
    condition     = !contains([for attachment in aws_iam_role_policy_attachment.node : endswith(attachment.policy_arn, "AmazonEKS_CNI_Policy")], true)
    error_message = "the network's rights belong to its own Pods"
  }
}

run "with_networks_those_alone_reach_it" {
  command = plan
  module {
    source = "./modules/cluster"
  }
  variables {
    public_cidrs = ["203.0.113.0/24"]
  }
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_public_access && one(aws_eks_cluster.this.vpc_config[0].public_access_cidrs) == "203.0.113.0/24"
    error_message = "the list is not the one that was given"
  }
}

run "a_single_system_node_is_refused" {
  command = plan
  module {
    source = "./modules/cluster"
  }
  variables {
    system_nodes = { count = 1, instance_types = ["m7i.xlarge"], ami_type = "AL2023_x86_64_STANDARD" }
  }
  expect_failures = [var.system_nodes]
}
