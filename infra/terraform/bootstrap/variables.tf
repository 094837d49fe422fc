variable "name" {
  description = "As in the main stack."
  type        = string
  default     = "emoji-ldm"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name: 3 to 20 characters a-z, 0-9 and -, beginning with a letter."
  }
}

variable "account_id" {
  description = "Number of the AWS account; in another one nothing is done."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id: twelve digits."
  }
}

variable "region" {
  description = "Region of the state, such as eu-central-1."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region: such as eu-central-1."
  }
}
