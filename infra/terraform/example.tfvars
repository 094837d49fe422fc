# Copy to terraform.tfvars (which git ignores) and fill in; every other variable has a default, see variables.tf.
account_id         = "123456789012"
region             = "eu-central-1"
zones              = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
admins             = ["arn:aws:iam::123456789012:role/platform"]
public_cidrs       = []   # or, for an office: ["203.0.113.0/24"]
monthly_budget_usd = 2000 # about 700 are spent without any job, see infra/runbooks/eks.md
budget_emails      = ["you@example.org"]
