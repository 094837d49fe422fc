variable "name" {
  description = "Name of the cluster whose images these are."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]+$", var.name))
    error_message = "name: a-z, 0-9 and -."
  }
}

variable "images" {
  description = "Names of the images, as infra/docker builds them."
  type        = set(string)
  validation {
    condition     = length(var.images) > 0 && alltrue([for image in var.images : can(regex("^[a-z0-9]+(-[a-z0-9]+)*$", image))])
    error_message = "images: names of a-z, 0-9 and -."
  }
}

variable "keep" {
  description = "Images that are kept of each; one that a cluster still runs must be among them."
  type        = number
  validation {
    condition     = var.keep >= 5 && floor(var.keep) == var.keep
    error_message = "keep: five or more."
  }
}

variable "key_policy" {
  description = "Policy of the key that encrypts the images, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.key_policy).Statement)
    error_message = "key_policy: a policy as JSON."
  }
}
