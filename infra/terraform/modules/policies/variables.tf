variable "partition" {
  description = "Part of AWS: aws, aws-cn, aws-us-gov."
  type        = string
  validation {
    condition     = contains(["aws", "aws-cn", "aws-us-gov"], var.partition)
    error_message = "partition: aws, aws-cn or aws-us-gov."
  }
}

variable "region" {
  description = "Region, such as eu-central-1."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region: such as eu-central-1."
  }
}

variable "account_id" {
  description = "Number of the AWS account."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id: twelve digits."
  }
}

variable "cluster" {
  description = "Name of the EKS cluster."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]+$", var.cluster))
    error_message = "cluster: a-z, 0-9 and -."
  }
}

variable "namespace" {
  description = "Namespace of the project's ServiceAccounts."
  type        = string
  default     = "emoji-ldm"
  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace: a valid Kubernetes name."
  }
}

variable "bucket" {
  description = "Bucket of the store."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: a valid S3 bucket name."
  }
}

variable "store_folder" {
  description = "Folder of the store in its bucket, as in `store: s3://BUCKET/FOLDER` of the configuration."
  type        = string
  default     = "store"
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9/-]*[a-z0-9]$", var.store_folder)) && !strcontains(var.store_folder, "//")
    error_message = "store_folder: a-z, 0-9, - and single /, neither first nor last; no wildcard could be told from a name."
  }
}

variable "store_key_arn" {
  description = "Key that encrypts the bucket."
  type        = string
  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/", var.store_key_arn))
    error_message = "store_key_arn: ARN of a KMS key."
  }
}

variable "node_role" {
  description = "Name of the nodes' role, the only one that Karpenter may give to a machine."
  type        = string
  validation {
    condition     = can(regex("^[\\w+=,.@-]{1,64}$", var.node_role))
    error_message = "node_role: a valid IAM role name."
  }
}

variable "queue" {
  description = "Name of the queue that tells Karpenter of interruptions."
  type        = string
  validation {
    condition     = can(regex("^[\\w-]{1,80}$", var.queue))
    error_message = "queue: a valid SQS queue name."
  }
}
