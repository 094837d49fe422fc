variable "name" {
  description = "Beginning of all names."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]+$", var.name))
    error_message = "name: a-z, 0-9 and -."
  }
}

variable "cluster" {
  description = "Name of the cluster, once it is there."
  type        = string
  validation {
    condition     = length(var.cluster) > 0
    error_message = "cluster: a name."
  }
}

variable "pod_trust" {
  description = "Who may use the role of a ServiceAccount, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.pod_trust).Statement)
    error_message = "pod_trust: a policy as JSON."
  }
}

variable "metrics" {
  description = "Whether metrics are kept in Amazon Managed Prometheus too."
  type        = bool
}

variable "log_days" {
  description = "Days that logs are kept."
  type        = number
  validation {
    condition     = contains([30, 60, 90, 120, 180, 365, 400, 545, 731, 1096, 1827, 3653], var.log_days)
    error_message = "log_days: one of the numbers that CloudWatch knows, 30 at least."
  }
}

variable "log_key_policy" {
  description = "Policy of the key that encrypts log groups, as JSON."
  type        = string
  validation {
    condition     = can(jsondecode(var.log_key_policy).Statement)
    error_message = "log_key_policy: a policy as JSON."
  }
}

variable "monthly_budget_usd" {
  description = "What the whole account may cost in a month, in US dollars; beyond it mails are sent, nothing is stopped."
  type        = number
  validation {
    condition     = var.monthly_budget_usd > 0
    error_message = "monthly_budget_usd: more than nothing."
  }
}

variable "budget_emails" {
  description = "Who hears of it."
  type        = list(string)
  validation {
    condition     = length(var.budget_emails) > 0 && alltrue([for email in var.budget_emails : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", email))])
    error_message = "budget_emails: one address at least."
  }
}
