variable "bucket" {
  description = "Name of the store's bucket."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: a valid S3 bucket name without dots (TLS names would not match)."
  }
}

variable "access_bucket" {
  description = "Name of the bucket of access logs."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.access_bucket)) && var.access_bucket != var.bucket
    error_message = "access_bucket: a valid S3 bucket name, another one than the store's."
  }
}

variable "store_folder" {
  description = "Folder of the store in its bucket."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9/-]*[a-z0-9]$", var.store_folder))
    error_message = "store_folder: a-z, 0-9, - and single /."
  }
}

variable "lifecycle_days" {
  description = "Folder of the store -> days that replaced or deleted objects stay, and days that objects stay (null: for ever)."
  type        = map(object({ noncurrent = number, current = optional(number) }))
  validation {
    condition     = alltrue([for days in values(var.lifecycle_days) : days.noncurrent >= 1 && coalesce(days.current, 1) >= 1])
    error_message = "lifecycle_days: whole days, one at least."
  }
  validation {
    condition     = alltrue([for folder, days in var.lifecycle_days : days.current == null || contains(["sets", "logs"], folder)])
    error_message = "lifecycle_days: only sets and logs may end by age; tables, checkpoints and names would lose what others refer to."
  }
}

variable "bucket_policy" {
  description = "Policy of the store's bucket, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.bucket_policy).Statement)
    error_message = "bucket_policy: a policy as JSON."
  }
}

variable "key_policy" {
  description = "Policy of the store's key, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.key_policy).Statement)
    error_message = "key_policy: a policy as JSON."
  }
}
