variable "name" {
  description = "Name of the cluster, and the beginning of every other name. k8s/components/karpenter says `emoji-ldm` too."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name)) && !strcontains(var.name, "--")
    error_message = "name: 3 to 20 characters a-z, 0-9 and single -, beginning with a letter, not ending with -."
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

variable "tags" {
  description = "Tags of everything, beside those that say which project it is; the bill can be split by them."
  type        = map(string)
  default     = {}
  validation {
    condition     = alltrue([for key in keys(var.tags) : !startswith(lower(key), "aws:") && !contains(["project", "managed-by"], key)])
    error_message = "tags: keys that begin with aws: are Amazon's; project and managed-by are set already."
  }
}
